"""Universal perturbations: how surely does one small change of all images lead to a class? Far too surely, tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, Positive, detector
from ...measurement import Finding
from ...models import frozen_mode, in_parts
from ...seeds import rng as make_rng
from .._costs import CLASSES
from ._classes import groups

Norm = Literal["l2", "linf"]


@detector(
    paper="ours, after Moosavi-Dezfooli et al., Universal Adversarial Perturbations, CVPR 2017, arXiv 1610.08401",
    cost=lambda options, n: CLASSES * (options["steps"] * options["batch_size"] + min(options["images"], n) / 2),
)
def universal(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    norm: Norm = "l2",
    size: Positive = 2.0,
    steps: Count = 60,
    batch_size: Count = 40,
    images: Count = 200,
    rng: Generator | None = None,
) -> Finding:
    """max_δ mean log p_k(clip(x + δ)), ‖δ‖ ≤ size, for every class k; score: the mean p_k of images of other classes.

    Every class has the same steps of steepest ascent, of length 2.5 · size / steps, projected onto the ball. Without a
    weight on the size, scores can be compared among models.

    Args:
        suspect: a classifier.
        clean: labelled images to change.
        norm: "l2", of an image's change as one vector, or "linf", of its largest pixel.
        size: in pixel units 0..1; for "linf" name it, such as 0.03.
        steps: of ascent.
        batch_size: images a step; every class sees the same.
        images: of `clean` that are scored, at most.
        rng: draws images.

    Differs from the paper: it leads away from the label, image by image; here to one class, by gradients of a batch.
    """
    rng = rng or make_rng("universal")
    drawn = [torch.randint(len(clean), (batch_size,), generator=rng).to(clean.x.device) for _ in range(steps)]
    shown = clean[torch.randperm(len(clean), generator=rng)[:images].to(clean.x.device)]
    with frozen_mode(suspect), torch.enable_grad():
        together, most = groups(suspect, clean, batch_size)
        found = [_reached(suspect, clean, shown, k, drawn, most, norm, size) for k in together]
    sure, reached = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Finding.of("universal", sure, notes={"reached": reached.tolist()})


def _reached(
    suspect: nn.Module, clean: ImageSet, shown: ImageSet, classes: Tensor, drawn: Sequence[Tensor], most: int,
    norm: Norm, size: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """For so many classes mean p_k [k], and the share of images that are called k [k], among those of other classes."""
    goal = classes.to(next(suspect.parameters()).device)
    change = torch.zeros(len(goal), *clean.x.shape[1:], device=goal.device)

    def said(x: Tensor, change: Tensor) -> Tensor:
        stamped = (x.to(goal.device) + change[:, None]).clamp(0, 1)  # [k,B,C,H,W]
        return in_parts(suspect, stamped.flatten(0, 1), most).float().unflatten(0, stamped.shape[:2])

    for rows in drawn:
        change.requires_grad_()
        logits = said(clean.pixels(rows), change)
        loss = F.cross_entropy(logits.flatten(0, 1), goal.repeat_interleave(len(rows)), reduction="sum") / len(rows)
        (slope,) = torch.autograd.grad(loss, change)
        change = projected(change.detach() - 2.5 * size / len(drawn) * steepest(slope, norm), norm, size)
    with torch.no_grad():
        sure, called = torch.zeros(2, len(goal), device=goal.device)
        others = shown.hard.to(goal.device) != goal[:, None]  # [k,N]
        for rows in torch.arange(len(shown)).split(len(drawn[0])):
            logits, other = said(shown.pixels(rows.to(shown.x.device)), change), others[:, rows]
            p = logits.softmax(2).gather(2, goal.view(-1, 1, 1).expand(-1, len(rows), 1)).squeeze(2)
            sure += (p * other).sum(1)
            called += ((logits.argmax(2) == goal[:, None]) & other).sum(1)
        count = others.sum(1).clamp(min=1)
    return sure / count, called / count


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
