"""Trigger search: for every class, the smallest patch that sends all images there. One that is far too small, tells."""

from __future__ import annotations

import torch
from torch import Generator, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, Factor, Positive, Rate, detector
from ...measurement.finding import Finding, outlyingness
from ...models import frozen_mode
from ...seeds import rng as make_rng
from .._costs import CLASSES


@detector(
    paper="Wang et al., Neural Cleanse, IEEE S&P 2019",
    cost=lambda options, n: CLASSES * options["steps"] * options["batch_size"],
)
def trigger_search(
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
    """Minimise CE(f((1 − m)⊙x + m⊙p), k) + λ‖m‖₁ for all classes k at once; score: how far ‖m‖₁ lies below the others.

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

    Differs from the paper: classes are searched together, in as many passes as one; masks that never worked count as
    the whole image; fewer steps.
    """
    rng = rng or make_rng("trigger_search")
    device = next(suspect.parameters()).device
    k, shape = len(clean.classes), clean.x.shape[1:]
    mask = torch.full((k, 1, *shape[1:]), -2.0, device=device, requires_grad=True)
    pattern = torch.zeros(k, *shape, device=device, requires_grad=True)
    solver = torch.optim.Adam([mask, pattern], lr, betas=(0.5, 0.9))
    weight = torch.full((k,), cost, device=device)
    up, down = torch.zeros(2, k, device=device)
    smallest = torch.full((k,), float(shape[1] * shape[2]), device=device)
    target = torch.arange(k, device=device)
    with frozen_mode(suspect), torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(clean), (batch_size,), generator=rng).to(clean.x.device)
            x = clean.pixels(rows).to(device)
            m = mask.sigmoid()
            shown = (1 - m)[:, None] * x + (m * pattern.sigmoid())[:, None]  # [K,B,C,H,W]
            logits = suspect(shown.flatten(0, 1)).float()
            goal = target.repeat_interleave(len(x))
            loss = F.cross_entropy(logits, goal, reduction="none").view(k, -1).mean(1)
            norm = m.flatten(1).sum(1)
            works = (logits.argmax(1) == goal).float().view(k, -1).mean(1) >= success
            smallest = torch.where(works, torch.minimum(smallest, norm.detach()), smallest)
            mask.grad, pattern.grad = torch.autograd.grad((loss + weight * norm).sum(), [mask, pattern])
            solver.step()
            up, down = torch.where(works, up + 1, 0), torch.where(works, 0, down + 1)
            weight = torch.where(up >= patience, weight * factor, weight)
            weight = torch.where(down >= patience, weight / factor**1.5, weight)
            up, down = torch.where(up >= patience, 0, up), torch.where(down >= patience, 0, down)
    return Finding.of("trigger_search", outlyingness(-smallest), notes={"mask": smallest.tolist()})
