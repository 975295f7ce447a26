"""What does MIMIC's information cost, its estimate on every layer, beside the distillation that it weighs?"""

from __future__ import annotations

from collections.abc import Iterator

import distrust as dt
from distrust.methods.defenses._information import informed
from distrust.models import resolve

from .measure import Row, Scale, compare
from .pictures import pictures

GOAL = 10.0


def rows(scale: Scale) -> Iterator[Row]:
    """WRN-16-1 without its head; a fiftieth of the usual passes: 200 of each layer's estimate beside 1,000."""
    batch, side = scale.of(128, 128, 16), scale.of(32, 32, 8)
    estimate, distil = scale.of((4, 20), (1, 5), (1, 1))
    images = pictures(scale.of(512, 512, 64), side)
    suspect = dt.model(scale.of("wrn16-1", "wrn16-1", "wrn10-1"), images, head=False)
    layers = resolve(suspect, "auto", tuple(images.x.shape[1:]))
    training = dt.defenses.mimic.training.changed(epochs=distil, batch_size=batch)
    ways = {
        "estimate": lambda: informed(suspect, layers, images, epochs=estimate, batch_size=batch, rng=dt.rng("mine")),
        "distillation": lambda: dt.defenses.mimic(suspect, images, estimate_on="uniform", training=training),
    }
    what = f"{estimate} passes of {len(layers)} estimates, {distil} of the distillation"
    yield from compare(what, ways, {"distillation": GOAL}, scale.rounds(1))
