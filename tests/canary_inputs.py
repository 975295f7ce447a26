"""Inputs of canaries: tiny images, and networks whose weights do not hang on how `model` draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distrust.data import ImageSet
from distrust.measurement import Backdoor, make_trigger
from distrust.models import Normalize, model, resolve
from distrust.seeds import rng
from distrust.training import Training, recipe

CLASSES = ("ant", "bee", "cat", "dog")
SHAPE = (3, 8, 8)
EXACT = {"precision": "fp32", "memory_format": "contiguous"}  # nothing is left to a probe of the machine


def pictures(name: str = "canary", n: int = 48, classes: tuple[str, ...] = CLASSES, shape: tuple = SHAPE) -> ImageSet:
    """Noise on one colour a class."""
    draw = rng(name)
    y = torch.arange(n) % len(classes)
    noise = torch.randint(60, (n, *shape), generator=draw)
    colours = torch.randint(195, (len(classes), shape[0], 1, 1), generator=draw)
    return ImageSet((noise + colours[y]).to(torch.uint8), y, classes, name=name)


def condensed() -> ImageSet:
    """A synthetic set that knows how networks are trained on it; grouped by class."""
    made = pictures("synthetic", 12)
    order = made.y.argsort(stable=True)
    return ImageSet(made.pixels()[order], made.y[order], CLASSES, "synthetic", training=recipe(epochs=2).plain())


SMOOTH = f"{Path(__file__).with_name('smooth.py')}:Smooth"


def network(name: str = SMOOTH, seed: str = "net", head: bool = True, like: ImageSet | None = None) -> nn.Module:
    """A network that tells images apart, with weights of its own stream; its BatchNorm has seen images."""
    like = like or pictures()
    built, draw = model(name, like, head=head, rng=rng(seed)), rng(seed, "weights")
    built.normalize.load_state_dict(Normalize.of(like).state_dict())  # type: ignore[operator, union-attr]
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for p in built.parameters():
            fan = p[0].numel() if p.ndim > 1 else 1
            value = torch.randn(p.shape, generator=draw)
            p.copy_(value * math.sqrt(2 / fan) if p.ndim > 1 else value * 0.1)
        for m in built.modules():
            if isinstance(m, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d) and m.weight is not None:
                m.weight.add_(1)
        for m in norms:
            m.momentum = 1.0
        answers = built.train()(like.pixels())
        for m in norms:
            m.momentum = 0.1
            m.num_batches_tracked.zero_()
        if head:
            (place,) = resolve(built, "embedding", like.x.shape[1:])
            built.get_submodule(place.removesuffix(":input")).bias.sub_(answers.mean(0))
    return built.eval()


def signs() -> ImageSet:
    """A downstream set."""
    return pictures("signs", 9, ("stop", "go", "yield"))


def encoder(seed: str = "encoder") -> nn.Module:
    """The same without a head."""
    return network(seed=seed, head=False)


def patch() -> Backdoor:
    """A white corner that leads to class 1."""
    return Backdoor(make_trigger("patch:white:3"), 1)


FIELDS = (  # of `Training`, but for what concerns the machine alone
    "epochs", "batch_size", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule", "milestones",
    "gamma", "augment",
)  # fmt: skip


def training_of(value: Any) -> dict[str, Any]:
    """A recipe of training, whole or as a set of images has it."""
    whole = Training.of(value) if isinstance(value, Mapping) else value
    return {name: getattr(whole, name) for name in FIELDS}
