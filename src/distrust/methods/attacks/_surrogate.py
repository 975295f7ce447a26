"""A network that an attacker of training data trains first, on the same data, to look through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import Augment, ImageSet
from ...models import frozen, frozen_mode
from ...models import model as make_model
from ...seeds import spawn
from ...training import fit
from ...training.loop import Objective, cross_entropy
from ._craft import pgd


def surrogate(
    network: str, train: ImageSet, *, epochs: int, flip: bool, crop: int, rng: Generator,
    objective: Objective = cross_entropy,
) -> nn.Module:  # fmt: skip
    """A new network, trained on the images, where they are; in eval mode, without gradients of its own.

    Raises:
        NotFound: no such network.
    """
    start = make_model(network, train, rng=spawn(rng))
    augment, device = Augment(flip, crop), train.x.device
    return frozen(fit(start, train, epochs=epochs, augment=augment, objective=objective, rng=spawn(rng), device=device))


def robust(bound: float, steps: int, size: float) -> Objective:
    """Cross-entropy of images that are changed for the worse first, in 0..1; Madry et al., arXiv 1706.06083."""

    def objective(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with frozen_mode(net):
            x = away(net, x, y, bound=bound, steps=steps, size=size)
        return F.cross_entropy(net(x).float(), y)

    return objective


def away(
    logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, bound: float, steps: int, size: float
) -> Tensor:  # fmt: skip
    """x ← Π(x + α·sign(∇_x CE(x, y))), without a random start, within `bound` of the images [B,C,H,W] and 0..1."""
    with torch.enable_grad():
        return pgd(lambda at: logits(at)[None], x, y, bound=bound, steps=steps, size=-size).detach()
