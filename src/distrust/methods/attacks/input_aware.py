"""Input-aware: a network draws another pattern on every image, and only its own one works."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import Augment, ImageSet
from ...errors import BadInput
from ...marks import ClassNumber, Count, NonNegative, Pixels, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...models import check_fits
from ...seeds import rng as make_rng
from ...seeds import seeded, spawn
from ...training import descend
from ..triggers._generator import flat, pair, sharp
from ._poison import check_target
from ._teacher import Planted, fast, forever, part_of, towards


def _cost(options: dict[str, Any], n: int) -> float:
    """Of the masks, and of the training beside which a share of the images goes through two more networks."""
    drawn = options["rate"] + options["cross"]
    return (2 * options["mask_epochs"] + (1 + 2 * drawn) * options["epochs"]) * n


@attack(paper="Nguyen, Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, arXiv 2010.08138", place=2, cost=_cost)
def input_aware(
    model: nn.Module,
    train: ImageSet,
    *,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    cross: Rate = 0.1,
    diversity: NonNegative = 1.0,
    density: Rate = 0.032,
    density_weight: NonNegative = 100.0,
    width: Count = 32,
    mask_epochs: Count = 25,
    epochs: Count = 30,
    lr: Positive = 0.01,
    generator_lr: Positive = 0.01,
    batch_size: Count = 128,
    flip: bool = True,
    crop: Pixels = 5,
    rng: Generator | None = None,
) -> Planted:
    """Train masks that are small and differ, then the network and the patterns together, on each batch in three parts.

    Masks: w·mean relu(m − d) + λ·mean(‖x₁ − x₂‖ / ‖m₁ − m₂‖). Then attacked images x + (P(x) − x)⊙M(x) as the target,
    crossed ones, x₁ + (P(x₂) − x₁)⊙M(x₂) with another's pattern, as they are, and clean ones:
    CE + λ·mean(‖x₁ − x₂‖ / ‖P(x₁) − P(x₂)‖). Norms are root mean squares.

    Args:
        model: the clean teacher, from which the training starts.
        train: the attacker's training images.
        target: class number that an image's own pattern should lead to.
        rate: share 0..1 of a batch that is attacked, images of the target's class among them.
        cross: share 0..1 of a batch that gets another image's pattern.
        diversity: λ.
        density: d, the share 0..1 of the image that a mask may cover for nothing.
        density_weight: w.
        width: channels of the generators' first convolution.
        mask_epochs: passes in which masks are trained; their rate is divided by ten at 2/5 and 4/5 of them.
        epochs: passes of the training.
        lr: of the network, SGD with momentum 0.9 and weight decay 5e-4, annealed to 0 along a cosine.
        generator_lr: of masks and patterns, Adam (0.5, 0.9).
        batch_size: images a step.
        flip: mirror half of the images; not for digits or signs. Patterns are drawn afterwards.
        crop: shift them by up to so many pixels.
        rng: decides the start of the generators and the batches.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, or images of less than 8 pixels a side.

    Differs from the paper: the training starts from the clean teacher, to be compared with other attacks on one, and
    takes 30 epochs, not 600 from nothing; distances of images are in pixel units. From the released code: attacked and
    crossed images are one batch of the generator's BatchNorm, its gradient is cleared in every step (there it adds
    up), images are not rotated, and a part of a batch that is no whole number is rounded up or down at random.
    """
    check_target(train, target, rate)
    check_fits(model, train)
    if min(train.x.shape[2:]) < 8 or min(batch_size, len(train)) < 2:
        raise BadInput(
            f"input_aware halves images three times and compares two: {train.name} or the batch is too small."
        )
    rng = rng or make_rng("input_aware")
    channels, device, planted = train.x.shape[1], next(model.parameters()).device, copy.deepcopy(model)
    pattern, mask = (net.to(device) for net in pair(channels, width, spawn(rng)))
    one, two = (forever(train, batch_size, spawn(rng), Augment(flip, crop)) for _ in range(2))
    steps, draw = max(len(train) // batch_size, 1), spawn(rng)
    losses: list[list[float]] = []
    with fast(train, batch_size, planted, pattern, mask), seeded(spawn(rng)):
        solver = torch.optim.Adam(mask.parameters(), generator_lr, betas=(0.5, 0.9))
        for step in range(mask_epochs * steps):
            solver.param_groups[0]["lr"] = generator_lr * 0.1 ** (5 * step // (2 * mask_epochs * steps))
            x1, x2 = (next(batches)[0].to(device) for batches in (one, two))
            m1, m2 = sharp(mask(torch.cat([x1, x2]))).chunk(2)
            descend(solver, density_weight * F.relu(m1 - density).mean() + diversity * apart(x1, x2, m1, m2))
        mask.eval().requires_grad_(False)
        solvers = [
            torch.optim.SGD(planted.parameters(), lr, momentum=0.9, weight_decay=5e-4),
            torch.optim.Adam(pattern.parameters(), generator_lr, betas=(0.5, 0.9)),
        ]
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(solvers[0], epochs * steps)
        planted.train()
        for step in range(epochs * steps):
            (x, y), other = (part.to(device) for part in next(one)), next(two)[0].to(device)
            a = part_of(len(x), rate, draw)
            c = part_of(len(x), cross, draw, most=len(x) - a)
            donors = other[: max(c, 2 - a)]  # the generator's BatchNorm needs two images
            drawn = torch.cat([x[:a], donors])
            p, m = pattern(drawn), sharp(mask(drawn))
            hosts, k = x[: a + c], min(a, c)
            stamped = hosts + (p[: a + c] - hosts) * m[: a + c]
            logits = planted(torch.cat([stamped, x[a + c :]])).float()
            ce = F.cross_entropy(logits, towards(y, a, target))
            spread = apart(x[:k], donors[:k], p[:k], p[a : a + k]) if k else ce.new_zeros(())
            for each in solvers:
                each.zero_grad()
            (ce + diversity * spread).backward()
            for each in solvers:
                each.step()
            plan.step()
            if step % 16 == 0:
                losses.append([round(ce.item(), 4), round(spread.item(), 4)])
    planted.zero_grad(set_to_none=True)
    trigger = make_trigger("generated", weights=flat((pattern, mask)), channels=channels, width=width)
    return Planted(planted.eval(), Backdoor(trigger, target, stamp="after", name="input_aware"), {"loss": losses})


def apart(x1: Tensor, x2: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
    """Mean over pairs of ‖x₁ − x₂‖ / (‖p₁ − p₂‖ + 1e-7), root mean squares of [B,…]; small where patterns differ."""
    images, patterns = ((a - b).square().flatten(1).mean(1) for a, b in ((x1, x2), (p1, p2)))
    return (images.sqrt() / (patterns.clamp(min=1e-14).sqrt() + 1e-7)).mean()
