"""Targeted adversarial perturbations of a batch: PGD (FGSM is its one step), and Carlini and Wagner's L2 attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ...data import Augment

Logits = Callable[[Tensor], Tensor]  # images [B,C,H,W] in 0..1 → logits [V,B,K] of V views, the plain one first


def crafting_cost(options: dict[str, Any], n: int) -> float:
    """Of the surrogate, if there is one, and of the poisons, as if every one needed every round."""
    once = {"none": 0, "fgsm": 1}.get(options["crafter"], options["steps"] * (1 + options["restarts"]))
    views = {"nothing": 1, "both": 3}.get(options["through"], 2)
    return (options["rate"] * once * views + bool(options["surrogate"]) * options["surrogate_epochs"]) * n


def pgd(
    logits: Logits, x: Tensor, target: int | Tensor, *, bound: float, steps: int, size: float,
    start: Tensor | None = None, stop: bool = False,
) -> Tensor:  # fmt: skip
    """x ← Π(x − α·sign(∇_x CE(x, target))), within `bound` of the images and 0..1. Madry et al., arXiv 1706.06083.

    One step with size = bound is FGSM (Goodfellow, Shlens, Szegedy, arXiv 1412.6572) towards the target.

    Args:
        logits: images → logits of their views, as the target must be said of them (with the trigger in place); the
            loss is summed over the views.
        x: images [B,C,H,W].
        target: class number, or one each: int64 [B], or shares [B,K].
        bound: ε of the L∞ ball, in 0..1.
        steps: of gradient descent.
        size: α, in 0..1; below 0 the way leads away from the target.
        start: where to begin (default: at the images).
        stop: leave an image alone as soon as the target is said of every view.
    """
    low, high = (x - bound).clamp(min=0), (x + bound).clamp(max=1)
    found, aim = x if start is None else start.clamp(low, high), torch.as_tensor(target, device=x.device)
    for _ in range(steps):
        at = found.detach().requires_grad_()
        z = logits(at).float()
        goal = aim.expand(*z.shape[:2], *aim.shape[1:]).flatten(0, 1)
        (gradient,) = torch.autograd.grad(F.cross_entropy(z.flatten(0, 1), goal, reduction="sum"), [at])
        moved = (at.detach() - size * gradient.sign()).clamp(low, high)
        if stop:
            there = (z.argmax(2) == aim).all(0)
            moved = torch.where(there[:, None, None, None], at.detach(), moved)
        found = moved
    return found


def cw(
    logits: Logits, x: Tensor, target: int, *, constant: float, steps: int, lr: float = 0.01, confidence: float = 0.0
) -> Tensor:
    """min ‖x' − x‖² + c·max(max_{i≠t} Z_i − Z_t, −κ), x' = (1 + tanh w)/2. Carlini, Wagner, arXiv 1608.04644, §V-VI.

    Of all steps the nearest image whose views all give the target is returned, or the last one.

    Args:
        logits: images → logits of their views, as for `pgd`; the worst view counts.
        x: images [B,C,H,W].
        target: class number.
        constant: c.
        steps: of Adam.
        lr: of Adam on w.
        confidence: κ, by how much the target's logit must lead.
    """
    w = (2 * x - 1).clamp(-1 + 1e-6, 1 - 1e-6).atanh()
    solver = torch.optim.Adam([w.requires_grad_()], lr)
    found, nearest = x.clone(), torch.full_like(x[:, 0, 0, 0], torch.inf)
    for _ in range(steps):
        at = (1 + w.tanh()) / 2
        z = logits(at).float()
        distance = (at - x).square().flatten(1).sum(1)
        others = z.index_fill(2, torch.tensor([target], device=z.device), -torch.inf)
        lead = (others.amax(2) - z[..., target]).amax(0)  # of the strongest other class, in the worst view
        (w.grad,) = torch.autograd.grad((distance + constant * lead.clamp(min=-confidence)).sum(), [w])
        solver.step()
        better = (lead < 0) & (lead <= -confidence) & (distance < nearest)
        nearest = torch.where(better, distance.detach(), nearest)
        found = torch.where((better | nearest.isinf())[:, None, None, None], at.detach(), found)
    return found


def anywhere(x: Tensor, bound: float, rng: Generator) -> Tensor:
    """A random start in the ball, for a restart."""
    return x + bound * (2 * torch.rand(x.shape, generator=rng) - 1).to(x)


def views_of(x: Tensor, through: str, moves: Augment, rng: Generator) -> list[Tensor]:
    """The images, and what else the target must be said of: "moved", "median" (3×3), "both" or "nothing"."""
    views = [x]
    if through in ("moved", "both"):
        views.append(moves(x, rng))
    if through in ("median", "both"):
        from kornia.filters import median_blur  # takes a second to import

        views.append(median_blur(x, 3))
    return views
