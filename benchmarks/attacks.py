"""What does a teacher poisoned by CheatKD cost beside one by ADBA, which needs a shadow student?"""

from __future__ import annotations

from collections.abc import Iterator

import distrust as dt
from distrust.methods import attacks

from .measure import Row, Scale, compare
from .pictures import pictures


def rows(scale: Scale) -> Iterator[Row]:
    """Both attack one clean WRN-16-2 with a pass over the images and one update of the trigger a batch of it."""
    batch = scale.of(128, 128, 16)
    images = pictures(scale.of(1280, 512, 64), scale.of(32, 32, 16))
    teacher = dt.model(scale.of("wrn16-2", "wrn16-2", "wrn10-1"), images, rng=dt.rng(0))
    shared = {"epochs": 1, "batch_size": batch}
    training = attacks.cheatkd.training.changed(**shared)
    ways = {
        "cheatkd": lambda: attacks.cheatkd(
            teacher, images, steps=len(images) // batch, trigger_batch=batch, training=training, rng=dt.rng(1)
        ),
        "adba": lambda: attacks.adba(teacher, images, rng=dt.rng(1), **shared),
    }
    yield from compare(f"poison a teacher, {len(images)} images", ways, {"adba": 1.0}, scale.rounds(2))
