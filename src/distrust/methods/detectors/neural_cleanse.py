"""Neural Cleanse: for every class, the smallest patch that sends all images there. One that is far too small, tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, Factor, Positive, Rate, detector
from ...measurement.finding import Finding, outlyingness
from ...models import frozen_mode, in_parts
from ...seeds import rng as make_rng
from .._costs import CLASSES
from ._classes import groups


@detector(
    paper="Wang et al., Neural Cleanse, IEEE S&P 2019",
    finds=True, cost=lambda options, n: CLASSES * options["steps"] * options["batch_size"],
)  # fmt: skip
def neural_cleanse(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    steps: Count = 300,
    lr: Positive = 0.1,
    cost: Positive = 1e-3,
    success: Rate = 0.99,
    patience: Count = 5,
    factor: Factor = 2.0,
    batch_size: Count = 32,
    rng: Generator | None = None,
) -> Finding:
    """Minimise CE(f((1 − m)⊙x + m⊙p), k) + λ‖m‖₁ for every class k; score: how far ‖m‖₁ lies below the others.

    λ of a class grows by `factor` while its trigger works on a share `success` of the images, and falls by
    factor^1.5 while it does not. The smallest mask that works is kept.

    Args:
        suspect: a classifier.
        clean: images to put triggers on.
        steps: of Adam on masks and patterns, both kept in 0..1 by a sigmoid.
        lr: of Adam.
        cost: λ at the start, per pixel of the mask.
        success: share 0..1 of the images at which a trigger works.
        patience: steps in a row before λ changes.
        factor: by which it changes.
        batch_size: images a step; every class sees the same.
        rng: draws images.

    Differs from the paper: classes are searched together, as many as memory holds, on the same images; masks that never
    worked count as the whole image; fewer steps.
    """
    rng = rng or make_rng("neural_cleanse")
    drawn = [torch.randint(len(clean), (batch_size,), generator=rng) for _ in range(steps)]
    options: dict[str, Any] = {"lr": lr, "cost": cost, "success": success, "patience": patience, "factor": factor}
    with frozen_mode(suspect), torch.enable_grad():
        together, most = groups(suspect, clean, batch_size)
        found = [_smallest(suspect, clean, classes, drawn, most, **options) for classes in together]
    smallest, masks, patterns = (torch.cat(parts) for parts in zip(*found, strict=True))
    finding = Finding.of("neural_cleanse", outlyingness(-smallest), notes={"mask": smallest.tolist()})
    k = finding.target
    shown = {"pattern": patterns[k].cpu(), "mask": masks[k].cpu()}
    never = int((~masks.flatten(1).any(1)).sum())
    unsure = ""
    if 2 * never >= len(masks):  # then the median is theirs, and any other class an outlier
        unsure = f"in {steps} steps no patch worked for {never} of {len(masks)} classes; ask for more steps"
    return replace(finding, trigger=shown if masks[k].any() else None, unsure=unsure)


def _smallest(
    suspect: nn.Module, clean: ImageSet, classes: Tensor, drawn: Sequence[Tensor], most: int, *, lr: float, cost: float,
    success: float, patience: int, factor: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """For so many classes ‖m‖₁ [k] of the smallest masks that work, these [k,1,H,W], and their patterns [k,C,H,W].

    `drawn` are every step's images. A mask that never worked is 0, and counts as the whole image.
    """
    target = classes.to(next(suspect.parameters()).device)
    k, shape, device = len(target), clean.x.shape[1:], target.device
    mask = torch.full((k, 1, *shape[1:]), -2.0, device=device, requires_grad=True)
    pattern = torch.zeros(k, *shape, device=device, requires_grad=True)
    solver = torch.optim.Adam([mask, pattern], lr, betas=(0.5, 0.9))
    weight = torch.full((k,), cost, device=device)
    up, down = torch.zeros(2, k, device=device)
    smallest = torch.full((k,), float(shape[1] * shape[2]), device=device)
    masks, patterns = torch.zeros_like(mask), torch.zeros_like(pattern)  # that work
    for rows in drawn:
        x = clean.pixels(rows.to(clean.x.device)).to(device)
        m, p = mask.sigmoid(), pattern.sigmoid()
        shown = (1 - m)[:, None] * x + (m * p)[:, None]  # [k,B,C,H,W]
        logits = in_parts(suspect, shown.flatten(0, 1), most).float()
        goal = target.repeat_interleave(len(x))
        loss = F.cross_entropy(logits, goal, reduction="none").view(k, -1).mean(1)
        norm = m.flatten(1).sum(1)
        works = (logits.argmax(1) == goal).float().view(k, -1).mean(1) >= success
        better = works & (norm.detach() < smallest)
        smallest = torch.where(better, norm.detach(), smallest)
        for kept, now in ((masks, m), (patterns, p)):
            kept.copy_(torch.where(better.view(-1, 1, 1, 1), now.detach(), kept))
        mask.grad, pattern.grad = torch.autograd.grad((loss + weight * norm).sum(), [mask, pattern])
        solver.step()
        up, down = torch.where(works, up + 1, 0), torch.where(works, 0, down + 1)
        weight = torch.where(up >= patience, weight * factor, weight)
        weight = torch.where(down >= patience, weight / factor**1.5, weight)
        up, down = torch.where(up >= patience, 0, up), torch.where(down >= patience, 0, down)
    return smallest, masks, patterns
