"""Does `fit` cost more than the passes that it makes, and what do usual loops cost?"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import distrust as dt

from . import bare, peers
from .measure import Row, Scale, compare
from .pictures import pictures, write

GOALS = {"bare step": 0.98, "PIL DataLoader, 0 workers": 1.0}


def rows(scale: Scale) -> Iterator[Row]:
    """WRN-16-1 beside everything; the other networks beside their bare steps."""
    batch, side, device = scale.of(128, 128, 16), scale.of(32, 32, 8), scale.device
    networks = scale.of(
        {"wrn16-1": 3840, "wrn16-2": 2560, "resnet18": 640}, {"wrn16-1": 2560, "wrn16-2": 1280}, {"wrn10-1": 64}
    )
    peered = next(iter(networks))
    for network, count in networks.items():
        images = pictures(count, side)
        model = dt.model(network, images).to(device)
        ways = {
            "fit": lambda model=model, images=images: dt.fit(model, images, epochs=1, batch_size=batch, device=device),
            "bare step": bare.fit(model, images, batch, device),
        }
        what = f"{network}, an epoch of {count}, batch {batch}"
        with tempfile.TemporaryDirectory() as folder:
            if network == peered:
                ways |= loops(model, images, batch, device, Path(folder))
            yield from compare(what, ways, GOALS, scale.rounds(5), device=device)


def loops(model, images, batch, device, folder):
    """A DataLoader over arrays in memory, and over PNG files, without and with workers."""
    arrays = images.x.permute(0, 2, 3, 1).contiguous().numpy()
    sets = {
        "PIL DataLoader": peers.Pictures(arrays, images.y.tolist()),
        "PNG files": peers.Files(write(images, folder)),
    }

    def epoch(dataset, workers):
        net = copy.deepcopy(model)
        batches, solver = peers.loader(dataset, batch, workers), peers.sgd(net.parameters())
        return lambda: peers.train(net, batches, solver, device)

    return {
        f"{name}, {n} workers": epoch(dataset, n) for name, dataset in sets.items() for n in (0, os.cpu_count() or 1)
    }
