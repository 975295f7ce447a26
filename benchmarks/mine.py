"""What does MIMIC's information cost? The estimate on every layer beside the distillation that it weighs: a ratio.

python benchmarks/mine.py [--images N] [--rounds R] [--out FILE]

WRN-16-1 without its head, 32×32 noise, 128 images a step; four passes of each layer's estimate and twenty of the
distillation, as the defaults have 200 and 1,000.
"""

from __future__ import annotations

import torch
from ratio import asked, compare

import distrust as dt
from distrust.methods.defenses._information import informed
from distrust.models import resolve

NETWORK, BATCH = "wrn16-1", 128
ESTIMATE, DISTIL = 4, 20  # passes
GOAL = 0.1  # estimate / distillation


def main() -> None:
    """Measure both once a round, in turn."""
    wanted = asked(__doc__.partition("\n")[0], 512, "mine")
    x = torch.randint(256, (wanted.images, 3, 32, 32), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(wanted.images) % 10, tuple("abcdefghij"))
    suspect = dt.model(NETWORK, images, head=False)
    layers = resolve(suspect, "auto", (3, 32, 32))
    training = dt.defenses.mimic.training.changed(epochs=DISTIL, batch_size=BATCH)
    ways = {
        "estimate": lambda: informed(suspect, layers, images, epochs=ESTIMATE, batch_size=BATCH, rng=dt.rng("mine")),
        "distillation": lambda: dt.defenses.mimic(suspect, images, estimate_on="uniform", training=training),
    }
    what = f"seconds for {ESTIMATE} passes of {len(layers)} estimates, and {DISTIL} of the distillation of a {NETWORK}"
    compare(f"{what}, {wanted.images} images", ways, GOAL, wanted.rounds, wanted.out)


if __name__ == "__main__":
    main()
