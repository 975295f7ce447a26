"""What does a poisoned teacher cost? CheatKD against ADBA under the same budget: its complexity claim, as a ratio.

python benchmarks/attacks.py [--images N] [--rounds R] [--out FILE]

Both attack the same clean WRN-16-2 with one pass over the images to change the teacher and one update of the trigger
per batch of that pass, on batches of the same size. Random images: only the time matters.
"""

from __future__ import annotations

import torch
from ratio import asked, compare

import distrust as dt
from distrust.methods import attacks

BATCH = 128
GOAL = 1.0  # cheatkd / adba: below it, the claim holds


def main() -> None:
    """Measure both once a round, in turn."""
    wanted = asked(__doc__.partition("\n")[0], 2048, "attacks")
    x = torch.randint(256, (wanted.images, 3, 32, 32), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(wanted.images) % 10, tuple("abcdefghij"))
    teacher = dt.model("wrn16-2", images, rng=dt.rng(0))
    shared = {"epochs": 1, "batch_size": BATCH}
    training = attacks.cheatkd.training.changed(**shared)
    ways = {
        "cheatkd": lambda: attacks.cheatkd(
            teacher, images, steps=wanted.images // BATCH, trigger_batch=BATCH, training=training, rng=dt.rng(1)
        ),
        "adba": lambda: attacks.adba(teacher, images, rng=dt.rng(1), **shared),
    }
    what = f"seconds to poison a WRN-16-2 on {wanted.images} images: one pass, one trigger update a batch"
    compare(what, ways, GOAL, wanted.rounds, wanted.out)


if __name__ == "__main__":
    main()
