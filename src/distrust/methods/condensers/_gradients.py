"""Gradient matching: what DC and DSA share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...seeds import spawn
from ...training import descend
from .._costs import CLASSES
from ._canvas import Canvas

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # (outer, inner), as released


def matching_cost(options: dict[str, Any], n: int) -> float:
    """Of ten classes: real images, gradients of gradients of synthetic ones, and what the networks learn in between."""
    outer, inner = loops(options["images_per_class"], options["outer"], options["inner"])
    seen = outer * (options["batch_real"] + 2 * options["images_per_class"])
    return options["iterations"] * CLASSES * (seen + (outer - 1) * inner * options["images_per_class"])


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Σ over layers and their output rows of 1 − cos; biases and norms count nothing. DC, arXiv 2006.05929."""
    total = ours[0].new_zeros(())
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


def gradients(network: nn.Module, x: Tensor, y: Tensor, graph: bool = False) -> tuple[Tensor, ...]:
    """∇θ of the cross-entropy; with `graph`, differentiable in x."""
    return torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()), create_graph=graph)


def gradient(network: nn.Module, x: Tensor, y: Tensor, graph: bool = False) -> Tensor:
    """The same as one vector, whatever the grad mode."""
    with torch.enable_grad():
        return torch.cat([part.flatten() for part in gradients(network, x, y, graph)])


def match(
    canvas: Canvas,
    *,
    iterations: int,
    outer: int,
    inner: int,
    batch_real: int,
    network: str,
    net_lr: float,
    siamese: bool,
    rng: Generator,
) -> None:
    """Learn the canvas: per random network, steps of the images and of the network in turn.

    Args:
        canvas: changed in place.
        iterations: random networks.
        outer: steps of the images for each of them.
        inner: epochs of the network on the images after each but the last.
        batch_real: real images of a class in a step.
        network: model name.
        net_lr: of the network: plain SGD.
        siamese: match through one shared random change.
        rng: draws networks, batches and changes.
    """
    for _ in range(iterations):
        net = canvas.network(network, rng)
        for step in range(outer):
            own, labels = canvas.by_class, canvas.y.split(canvas.each)
            loss = canvas.z.new_zeros(())
            for k, real in enumerate(canvas.real(batch_real, rng)):
                change = canvas.siamese.shared(rng) if siamese else lambda x: x
                goal = gradients(net, change(real), labels[k][:1].expand(len(real)))
                loss = loss + distance(gradients(net, change(own[k]), labels[k], graph=True), goal)
            canvas.step(loss)
            if step < outer - 1:
                _train(net, canvas, inner, net_lr, siamese, rng)


def _train(net: nn.Module, canvas: Canvas, epochs: int, lr: float, siamese: bool, rng: Generator) -> None:
    solver = torch.optim.SGD(net.parameters(), lr)
    x = canvas.x.detach()
    for rows in _batches(len(x), epochs, spawn(rng)):
        seen = canvas.siamese(x[rows], rng) if siamese else x[rows]
        descend(solver, F.cross_entropy(net(seen), canvas.y[rows]))


def _batches(n: int, epochs: int, rng: Generator, size: int = 256) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(n, generator=rng).split(size)


def loops(images_per_class: int, outer: int | None, inner: int | None) -> tuple[int, int]:
    """What was asked, else the released code's numbers for the nearest images per class that it lists."""
    near = LOOPS[min(LOOPS, key=lambda n: (abs(n - images_per_class), n))]
    return near[0] if outer is None else outer, near[1] if inner is None else inner
