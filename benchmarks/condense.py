"""What does distribution matching cost? DM at ten images a class beside the forwards and the backward that it needs.

python benchmarks/condense.py [--images N] [--rounds R] [--out FILE]

ConvNet-3 of width 32, real batches of 64 a class, 32×32 noise in ten classes; only the time matters. DM also draws a
fresh network, real images and changes, applies these, and steps.
"""

from __future__ import annotations

import torch
from ratio import asked, compare

import distrust as dt
from distrust.methods import condensers

EACH, REAL, NETWORK = 10, 64, "convnet3-w32"
ITERATIONS = 10
GOAL = 1.2  # DM / bare passes


def bare(images: dt.ImageSet) -> None:
    """As many forwards of real images, and forwards and backwards of synthetic ones, and nothing else."""
    net = dt.model(NETWORK, images)
    real, own = images.pixels(slice(0, 10 * REAL)), images.pixels(slice(0, 10 * EACH)).requires_grad_()
    for _ in range(ITERATIONS):
        with torch.no_grad():
            goal = net(real).mean(0)
        torch.autograd.grad((net(own).mean(0) - goal).square().sum(), [own])


def main() -> None:
    """Measure both once a round, in turn."""
    wanted = asked(__doc__.partition("\n")[0], 2000, "condense")
    x = torch.randint(256, (wanted.images, 3, 32, 32), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(wanted.images) % 10, tuple("abcdefghij"))
    options = {"images_per_class": EACH, "batch_real": REAL, "network": NETWORK, "iterations": ITERATIONS}
    ways = {"dm": lambda: condensers.dm(images, **options), "bare passes": lambda: bare(images)}
    what = f"seconds for {ITERATIONS} iterations of DM, {EACH} images a class, real batches of {REAL}, {NETWORK}"
    compare(what, ways, GOAL, wanted.rounds, wanted.out)


if __name__ == "__main__":
    main()
