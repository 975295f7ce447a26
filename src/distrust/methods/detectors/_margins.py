"""How far noise can be pushed into each class: the margins of MM-BD."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...models import in_parts
from ._classes import groups


def margins(
    suspect: nn.Module, clean: ImageSet, images: int, steps: int, lr: float, tolerance: float, rng: Generator
) -> Tensor:
    """The largest margin [K] of each class that an ascent from so many images of uniform noise reaches.

    Args:
        suspect: a classifier, frozen; gradients are on.
        clean: says what images are like and how many classes there are.
        images: from which each class starts.
        steps: of gradient ascent, at most.
        lr: step, in pixel units by the gradient of a single image's margin.
        tolerance: a class stops when the sum of its margins changes by a smaller part of itself.
        rng: draws the noise.
    """
    together, most = groups(suspect, clean, images)
    shape, found = (images, *clean.x.shape[1:]), []
    for classes in together:
        noise = torch.stack([torch.rand(shape, generator=rng) for _ in classes])
        found.append(_pushed(suspect, noise, classes, most, steps, lr, tolerance))
    return torch.cat(found)


def _pushed(
    suspect: nn.Module, x: Tensor, classes: Tensor, most: int, steps: int, lr: float, tolerance: float
) -> Tensor:
    """The largest margin [k] of each class among its images [k,B,C,H,W] after the ascent."""
    goal = classes.to(next(suspect.parameters()).device)
    x, going = x.to(goal.device), torch.ones(len(goal), dtype=torch.bool, device=goal.device)
    best, last = torch.zeros(2, len(goal), device=goal.device)
    for step in range(steps + 1):
        x.requires_grad_()
        logits = in_parts(suspect, x.flatten(0, 1), most).float().unflatten(0, x.shape[:2])  # [k,B,K]
        own = goal.view(-1, 1, 1).expand(-1, x.shape[1], 1)
        margin = logits.gather(2, own).squeeze(2) - logits.scatter(2, own, -torch.inf).amax(2)
        total = margin.detach().sum(1)
        best = torch.where(going, margin.detach().amax(1), best)
        going = going & ((total - last).abs() > tolerance * last.abs())
        if step == steps or not going.any():
            break
        last = total
        (slope,) = torch.autograd.grad(margin.sum(), x)
        x = (x.detach() + lr * slope * going.view(-1, 1, 1, 1, 1)).clamp(0, 1)
    return best
