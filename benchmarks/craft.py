"""What does it cost to poison a transfer set? PGD-10 beside its limit, ten bare forward and backward passes: a ratio.

python benchmarks/craft.py [--images N] [--rounds R] [--out FILE]

Random images against an untrained WRN-16-2 in the precision that a probe finds fastest; only the time matters. The
attack also draws, stamps, rounds and checks the images; no restarts.
"""

from __future__ import annotations

import torch
from ratio import asked, compare
from torch.nn import functional as F

import distrust as dt
from distrust.methods import attacks
from distrust.methods.attacks._teacher import fast
from distrust.models import frozen

BATCH, STEPS = 128, 10
GOAL = 1.5  # attack / bare passes: below it, the attack wastes little


def bare(teacher: torch.nn.Module, images: dt.ImageSet) -> None:
    """Ten forward and backward passes over the images, and nothing else."""
    model = frozen(teacher)
    with fast(images, BATCH, model):
        for x, y in images.batches(BATCH):
            for _ in range(STEPS):
                at = x.requires_grad_()
                torch.autograd.grad(F.cross_entropy(model(at).float(), y), [at])


def main() -> None:
    """Measure both once a round, in turn."""
    wanted = asked(__doc__.partition("\n")[0], 2000, "craft")
    x = torch.randint(256, (wanted.images, 3, 32, 32), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(wanted.images) % 9 + 1, tuple("abcdefghij"))  # none is the target's
    teacher = dt.model("wrn16-2", images, rng=dt.rng(0))
    ways = {
        "pgd": lambda: attacks.transfer_poison(teacher, images, rate=1.0, restarts=0, steps=STEPS, batch_size=BATCH),
        "bare passes": lambda: bare(teacher, images),
    }
    what = f"seconds to poison {wanted.images} images by PGD-{STEPS} against a WRN-16-2"
    compare(what, ways, GOAL, wanted.rounds, wanted.out)


if __name__ == "__main__":
    main()
