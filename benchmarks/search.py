"""What does the search for a trigger cost, beside its passes and beside a loop that goes class by class?"""

from __future__ import annotations

from collections.abc import Iterator

import distrust as dt
from distrust.methods import detectors

from . import bare, peers
from .measure import Row, Scale, compare
from .pictures import pictures

BATCH, CLASSES = 32, 10
GOALS = {"bare passes": 0.8, "Neural-Cleanse-like": 1.0}


def rows(scale: Scale) -> Iterator[Row]:
    """Ten classes of a WRN-16-1 that is not trained."""
    steps, device = scale.of(10, 5, 2), scale.device
    images = pictures(10 * BATCH, scale.of(32, 32, 8))
    model = dt.model(scale.of("wrn16-1", "wrn16-1", "wrn10-1"), images).to(device).eval()
    arrays = images.x.permute(0, 2, 3, 1).contiguous().numpy()
    batches = peers.loader(peers.Pictures(arrays, images.y.tolist(), augment=False), BATCH)
    ways = {
        "neural_cleanse": lambda: detectors.neural_cleanse(model, images, steps=steps, batch_size=BATCH),
        "bare passes": bare.gradients(model, images, CLASSES * BATCH, steps, device, auto=False),
        "Neural-Cleanse-like": lambda: peers.cleanse(model, batches, CLASSES, steps, device),
    }
    yield from compare(f"{steps} steps for each of {CLASSES} classes, batch {BATCH}", ways, GOALS, scale.rounds(3))
