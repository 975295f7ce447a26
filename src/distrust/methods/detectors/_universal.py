"""Universal perturbations of a fixed size, one for each class: how they are searched, and how far they reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...models import in_parts

Norm = Literal["l2", "linf"]


def searched(
    suspect: nn.Module, clean: ImageSet, classes: Tensor, drawn: Sequence[Tensor], most: int, norm: Norm, size: float
) -> Tensor:
    """Changes [k,C,H,W] that lead images to these classes: steepest ascent of length 2.5 · size / steps, projected.

    Args:
        suspect: a classifier, frozen.
        clean: images to change.
        classes: [k].
        drawn: for each step the images of its batch; every class sees the same.
        most: images that go through at once, at most.
        norm: of a change.
        size: its largest norm.
    """
    goal = classes.to(next(suspect.parameters()).device)
    change = torch.zeros(len(goal), *clean.x.shape[1:], device=goal.device)
    for rows in drawn:
        change.requires_grad_()
        logits = _said(suspect, clean.pixels(rows), change, most)
        loss = F.cross_entropy(logits.flatten(0, 1), goal.repeat_interleave(len(rows)), reduction="sum") / len(rows)
        (slope,) = torch.autograd.grad(loss, change)
        change = projected(change.detach() - 2.5 * size / len(drawn) * steepest(slope, norm), norm, size)
    return change


@torch.no_grad()
def reached(
    suspect: nn.Module, shown: ImageSet, classes: Tensor, change: Tensor, most: int, batch: int
) -> tuple[Tensor, Tensor]:
    """For each class mean p_k [k], and the share of images that are called k [k], among those of other classes."""
    goal = classes.to(change.device)
    sure, called = torch.zeros(2, len(goal), device=goal.device)
    others = shown.hard.to(goal.device) != goal[:, None]  # [k,N]
    for rows in torch.arange(len(shown)).split(batch):
        logits, other = _said(suspect, shown.pixels(rows.to(shown.x.device)), change, most), others[:, rows]
        p = logits.softmax(2).gather(2, goal.view(-1, 1, 1).expand(-1, len(rows), 1)).squeeze(2)
        sure += (p * other).sum(1)
        called += ((logits.argmax(2) == goal[:, None]) & other).sum(1)
    count = others.sum(1).clamp(min=1)
    return sure / count, called / count


def _said(suspect: nn.Module, x: Tensor, change: Tensor, most: int) -> Tensor:
    """Logits [k,B,K] of images under each change."""
    stamped = (x.to(change.device) + change[:, None]).clamp(0, 1)  # [k,B,C,H,W]
    return in_parts(suspect, stamped.flatten(0, 1), most).float().unflatten(0, stamped.shape[:2])


def steepest(slope: Tensor, norm: Norm) -> Tensor:
    """The direction of length 1 [k,C,H,W] in which a loss grows fastest."""
    if norm == "linf":
        return slope.sign()
    return slope / slope.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def projected(change: Tensor, norm: Norm, size: float) -> Tensor:
    """The nearest change [k,C,H,W] of at most this size."""
    if norm == "linf":
        return change.clamp(-size, size)
    return change * (size / change.flatten(1).norm(dim=1).clamp(min=size)).view(-1, 1, 1, 1)
