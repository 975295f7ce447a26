"""What the attacks on a synthetic set share: networks trained on it, its classes' archetypes, and its new images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...models import Normalize, in_parts, refuse_batch_norm, room
from ...models import model as make_model
from ...seeds import spawn
from ...training import descend
from .._costs import CLASSES


def drawing_cost(options: dict[str, Any], n: int) -> float:
    """Of the network that draws archetypes, and of archetypes of ten classes."""
    drawn = CLASSES * options["archetypes_per_class"]
    return options["net_steps"] * n + options["archetype_steps"] * drawn


def units_of(synthetic: ImageSet) -> Normalize:
    """The statistics of its training recipe, which are those of the real images; else its own."""
    change = (synthetic.training or {}).get("augment", {})
    mean, std = change.get("mean"), change.get("std")
    found = Normalize(mean, std) if mean and std else Normalize.of(synthetic)
    return found.to(synthetic.x.device)


def fresh(network: str, synthetic: ImageSet, units: Normalize, rng: Generator) -> nn.Module:
    """An untrained network that normalises by `units`.

    Raises:
        BadInput: it has BatchNorm, whose statistics would be those of a handful of images.
    """
    mean, std = (part.flatten().tolist() for part in (units.mean, units.std))
    net = make_model(network, synthetic, rng=spawn(rng), normalize=(mean, std))
    return refuse_batch_norm(net).to(synthetic.x.device)


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float) -> nn.Module:
    """Full-batch SGD with momentum 0.9 and weight decay 5e-4, as the released code has it; in place."""
    solver = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    most = room(net, x.shape[1:])
    for _ in range(steps):
        descend(solver, F.cross_entropy(in_parts(net, x, most), y))
    return net


def archetypes(
    net: nn.Module, units: Normalize, shape: tuple[int, ...], classes: int, each: int, steps: int, legal: bool,
    rng: Generator,
) -> Tensor:  # fmt: skip
    """For every class, `each` images [K·each,C,H,W] in pixel units with the largest logit that can be had from noise.

    Adam at 0.1 on normalised pixels; with `legal` they stay in 0..1. So many at once as memory holds;
    images do not touch.
    """
    y = torch.arange(classes, device=units.mean.device).repeat_interleave(each)
    start = torch.randn(len(y), *shape, generator=rng)
    most, found = room(net, shape), []
    for z, own in zip(start.split(most), y.split(most), strict=True):
        z = z.to(y.device).requires_grad_()
        solver = torch.optim.Adam([z], 0.1)
        for _ in range(steps):
            logits = net(pixels(z, units))
            (z.grad,) = torch.autograd.grad(-logits.gather(1, own[:, None]).sum(), [z])
            solver.step()
            if legal:
                clamp(z, units)
        found.append(pixels(z, units).detach())
    return torch.cat(found)


def pixels(z: Tensor, units: Normalize) -> Tensor:
    """Normalised images in pixel units."""
    return units.inverse(z)


def clamp(z: Tensor, units: Normalize) -> None:
    """Back into 0..1, in place."""
    with torch.no_grad():
        z.copy_(units(pixels(z, units).clamp(0, 1)))


def label_of(y: Tensor, target: int, count: int) -> Tensor:
    """`count` labels of the target, hard or soft as `y` has them."""
    labels = torch.full((count,), target, device=y.device)
    return labels if y.ndim == 1 else F.one_hot(labels, y.shape[1]).float()


def tainted(synthetic: ImageSet, name: str, **changes: Any) -> ImageSet:
    """The set with other images; attacked."""
    return synthetic.replace(taint=(*synthetic.taint, name), **changes)
