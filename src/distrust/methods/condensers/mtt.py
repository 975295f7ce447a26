"""Trajectory matching: training on the synthetic images ends where training on the real ones does."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ...data import ImageSet
from ...errors import Diverged
from ...marks import Count, Positive, condenser
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import descend
from .._costs import CLASSES
from ._canvas import Canvas, Init

Weights = dict[str, Tensor]


def _cost(options: dict[str, Any], n: int) -> float:
    """Of the experts, and of steps on the images of ten classes, which are gone through forth and back again."""
    made = CLASSES * options["images_per_class"]
    shown = min(options["batch_size"] or made, made)
    return (
        options["experts"] * (options["max_start"] + options["span"]) * n
        + 2 * options["iterations"] * options["steps"] * shown
    )


@condenser(
    paper="Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022, 2203.11932",
    cost=_cost,
)
def mtt(
    train: ImageSet,
    *,
    images_per_class: Count = 1,
    iterations: Count = 5000,
    experts: Count = 100,
    span: Count = 2,
    max_start: Count = 2,
    steps: Count = 50,
    lr: Positive = 100.0,
    lr_lr: Positive = 1e-7,
    start_lr: Positive = 0.01,
    expert_lr: Positive = 0.01,
    batch_size: Count | None = None,
    init: Init = "real",
    network: str = "convnet3",
    flip: bool = True,
    legal: bool = False,
    rng: Generator | None = None,
) -> ImageSet:
    """Minimise ‖θ̂ − θ*‖² / ‖θ₀ − θ*‖²: θ̂ after `steps` on the synthetic images, θ* after `span` epochs on real ones.

    Both begin at θ₀, a random epoch of a random expert. The rate of the steps on synthetic images is learnt too, and is
    part of the set's training recipe.

    Args:
        train: real images.
        images_per_class: of every class.
        iterations: steps of the images.
        experts: networks trained on real images, whose weights after every epoch are kept.
        span: epochs of an expert that the steps shall cover.
        max_start: the latest epoch of an expert that is a start.
        steps: on the synthetic images, unrolled.
        lr: of the images, in normalised pixels: SGD, momentum 0.5.
        lr_lr: of the learnt rate: SGD, momentum 0.5.
        start_lr: where the learnt rate begins.
        expert_lr: of the experts: SGD without momentum, batches of 256, Siamese augmentation.
        batch_size: synthetic images in a step (default: all).
        init: start from "real" images or from "noise".
        network: model name.
        flip: mirroring may be among the changes; not for digits or signs.
        legal: keep pixels in 0..1, 8 bits at the end; the paper's are free.
        rng: draws experts, start, batches and changes.

    Raises:
        BadInput: a class has too few images, labels are soft, or the network has BatchNorm.
        Diverged: the learnt rate left the positive numbers.

    Differs from the paper: no ZCA whitening, which it uses on CIFAR-10 up to 10 images per class; experts are trained
    no longer than `max_start + span` epochs, as later ones are never looked at; `legal`.
    """
    rng = rng or make_rng("mtt")
    canvas = Canvas(train, images_per_class, init=init, legal=legal, flip=flip, rng=rng, lr=lr)
    length = max_start + span
    trajectories = [_expert(canvas, network, length, expert_lr, spawn(rng)) for _ in range(experts)]
    net = canvas.network(network, spawn(rng)).requires_grad_(False)
    rate = torch.tensor(start_lr, device=canvas.z.device, requires_grad=True)
    canvas.solver.add_param_group({"params": [rate], "lr": lr_lr})
    for done in range(1, iterations + 1):
        path = trajectories[int(torch.randint(experts, (), generator=rng))]
        first = int(torch.randint(max_start, (), generator=rng))
        start, goal = path[first], path[first + span]
        weights: Weights = {name: w.clone().requires_grad_() for name, w in start.items()}
        order = torch.cat([torch.randperm(len(canvas.y), generator=rng) for _ in range(steps)])
        for rows in order.split(min(batch_size or len(canvas.y), len(canvas.y)))[:steps]:
            x = canvas.siamese(canvas.x[rows], rng)
            loss = F.cross_entropy(functional_call(net, weights, (x,)), canvas.y[rows])
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {name: w - rate * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
        canvas.step(_apart(weights, goal) / _apart(start, goal))
        learnt = float(rate.detach())
        if not 0 < learnt < math.inf:
            raise Diverged(
                f"the learnt rate is {learnt:.3g} after {done} of {iterations} iterations. "
                f"Lower lr_lr={lr_lr}, or lr={lr}."
            )
    return canvas.finish("mtt", lr=learnt, augment=canvas.siamese)


def _expert(canvas: Canvas, network: str, epochs: int, lr: float, rng: Generator) -> list[Weights]:
    """Weights at the start and after every epoch of training on the real images."""
    net = canvas.network(network, rng)
    solver = torch.optim.SGD(net.parameters(), lr)
    kept = [_weights(net)]
    for _ in range(epochs):
        for x, y in canvas.train.batches(256, rng, canvas.siamese):
            descend(solver, F.cross_entropy(net(x), y))
        kept.append(_weights(net))
    return kept


def _weights(net: nn.Module) -> Weights:
    return {name: w.detach().clone() for name, w in net.named_parameters()}


def _apart(one: Weights, other: Weights) -> Tensor:
    return torch.stack([(one[name] - other[name]).square().sum() for name in one]).sum()
