"""Does `distill` cost more than its passes, and what does a loop like RepDistiller's cost?"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import distrust as dt

from . import bare, peers
from .measure import Row, Scale, compare
from .pictures import pictures

GOALS = {"bare step": 0.95, "RepDistiller-like, 0 workers": 1.0}


def rows(scale: Scale) -> Iterator[Row]:
    """AT and Overhaul, WRN-16-2 → WRN-16-1 beside both; the other pairs beside their bare steps."""
    batch, side = scale.of(128, 128, 16), scale.of(32, 32, 8)
    pairs = scale.of(
        {("wrn16-2", "wrn16-1"): 2560, ("wrn16-2", "wrn16-2"): 1280, ("resnet18", "resnet18"): 512},
        {("wrn16-2", "wrn16-1"): 1280},
        {("wrn10-1", "wrn10-1"): 64},
    )
    peered = next(iter(pairs))
    criteria = {"at": lambda *nets: peers.AT(), "overhaul": peers.Overhaul}
    for pair, count in pairs.items():
        images = pictures(count, side)
        teacher, student = (dt.model(name, images).to(scale.device) for name in pair)
        for name, criterion in criteria.items():
            loss = getattr(dt.distillers, name)
            ways = {
                "distill": lambda s=student, t=teacher, images=images, loss=loss: dt.distill(
                    s, t, images, loss=loss, epochs=1, batch_size=batch
                ),
                "bare step": bare.distill(student, teacher, images, loss, batch, scale.device),
            }
            if pair == peered:
                ways |= loops(student, teacher, images, batch, criterion, scale.device)
            what = f"{name}, {' → '.join(pair)}, an epoch of {count}, batch {batch}"
            yield from compare(what, ways, GOALS, scale.rounds(5), device=scale.device)


def loops(student, teacher, images, batch, criterion, device):
    """The peer's epoch without and with workers."""
    arrays = images.x.permute(0, 2, 3, 1).contiguous().numpy()

    def epoch(workers):
        ours, theirs = copy.deepcopy(student), copy.deepcopy(teacher)
        batches = peers.loader(peers.Pictures(arrays, images.y.tolist()), batch, workers)
        added = criterion(ours, theirs, images.pixels(slice(0, 2)).to(device))
        return lambda: peers.distill(ours, theirs, batches, added, device)

    return {f"RepDistiller-like, {n} workers": epoch(n) for n in (0, os.cpu_count() or 1)}
