"""What does distribution matching cost, beside its passes and beside a loop that goes class by class?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

import distrust as dt
from distrust.methods import condensers
from distrust.models import Normalize

from . import peers
from .measure import Row, Scale, compare
from .pictures import pictures

EACH, NETWORK = 10, "convnet3-w32"
GOALS = {"bare passes": 0.83, "DatasetCondensation-like": 1.0}


def rows(scale: Scale) -> Iterator[Row]:
    """DM at ten images a class. Ours and the peer's also draw a network, images and changes, apply these, and step."""
    iterations, real = scale.of(10, 10, 1), scale.of(64, 64, 8)
    images = pictures(scale.of(2000, 2000, 160), scale.of(32, 32, 16))
    options = {"images_per_class": EACH, "batch_real": real, "network": NETWORK, "iterations": iterations}
    normalize = Normalize.of(images)
    statistics = tuple(tuple(s.flatten().tolist()) for s in (normalize.mean, normalize.std))
    by_class = [images.pixels(images.y == k) for k in range(len(images.classes))]
    source = dt.rng("changes")
    ways = {
        "dm": lambda: condensers.dm(images, **options),
        "bare passes": lambda: bare(images, iterations, real),
        "DatasetCondensation-like": lambda: peers.dm(
            by_class, EACH, real, iterations, lambda: dt.model(NETWORK, images),
            lambda: dt.Siamese(*statistics).shared(source),
        ),
    }  # fmt: skip
    yield from compare(f"{iterations} steps of DM, real batches of {real}", ways, GOALS, scale.rounds(3))


def bare(images: dt.ImageSet, iterations: int, real: int) -> None:
    """As many forwards of real images, and forwards and backwards of synthetic ones, and nothing else."""
    net = dt.model(NETWORK, images)
    theirs, own = images.pixels(slice(0, 10 * real)), images.pixels(slice(0, 10 * EACH)).requires_grad_()
    for _ in range(iterations):
        with torch.no_grad():
            goal = net(theirs).mean(0)
        torch.autograd.grad((net(own).mean(0) - goal).square().sum(), [own])
