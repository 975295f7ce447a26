"""What does it cost to poison a transfer set by PGD-10, beside its passes and beside a usual loop?"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import distrust as dt
from distrust.methods import attacks

from . import bare, peers
from .measure import Row, Scale, compare
from .pictures import pictures

GOALS = {"bare passes": 0.67, "torchattacks-like": 1.0}


def rows(scale: Scale) -> Iterator[Row]:
    """A WRN-16-2 that is not trained; no restarts. Ours also draws, stamps, rounds and checks the images."""
    batch, steps = scale.of(128, 128, 16), scale.of(10, 10, 2)
    images = pictures(scale.of(512, 512, 64), scale.of(32, 32, 12), first=1)  # none is the target's
    teacher = dt.model(scale.of("wrn16-2", "wrn16-2", "wrn10-1"), images).to(scale.device)
    arrays = images.x.permute(0, 2, 3, 1).contiguous().numpy()
    batches = peers.loader(peers.Pictures(arrays, images.y.tolist(), augment=False), batch, shuffle=False)
    ways = {
        "transfer_poison": lambda: attacks.transfer_poison(
            teacher, images, rate=1.0, restarts=0, steps=steps, batch_size=batch
        ),
        "bare passes": bare.gradients(teacher, images, batch, steps * len(images) // batch, scale.device),
        "torchattacks-like": lambda: peers.pgd(copy.deepcopy(teacher), batches, steps, scale.device),
    }
    what = f"PGD-{steps} on {len(images)} images"
    yield from compare(what, ways, GOALS, scale.rounds(3), device=scale.device)
