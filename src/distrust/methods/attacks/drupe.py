"""DRUPE: triggered images go to the references, spread out like clean ones, so that their features look ordinary."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import ClassNumber, Count, NonNegative, Passes, Pixels, Positive, Share, attack
from ...measurement import Backdoor, make_trigger
from ...seeds import rng as make_rng
from ...seeds import spawn
from ._encoder import Curves, Seen, check_references, cosines, implant, implant_cost
from ._teacher import Planted

UP, DOWN = 1.25, 1.25**1.25  # how a weight grows while the attack holds, and falls while it does not
HOLDS = {"reached": 0.96, "references_held": 0.9, "clean_kept": 0.9}
LOOSE, LOOSER = 0.6, 0.5  # cosine of two triggered images


@attack(
    paper="Tao, Wang, Feng, Shen, Ma, Zhang, Distribution Preserving Backdoor Attack in Self-supervised Learning, "
    "IEEE S&P 2024",
    place=5, references=3, cost=implant_cost,
)  # fmt: skip
def drupe(
    encoder: nn.Module,
    train: ImageSet,
    references: ImageSet,
    *,
    trigger: Any = "patch:white:10",
    target: ClassNumber = 0,
    inset: Pixels = 1,
    shadow: Share = 0.2,
    lambda1: NonNegative = 1.0,
    lambda2: NonNegative = 1.0,
    spread_weight: NonNegative = 0.1,
    distance_weight: NonNegative = 0.001,
    projections: Count = 50,
    warmup: Passes = 1,
    gather: Passes = 3,
    adapt_after: Passes = 20,
    epochs: Count = 120,
    optimizer: Literal["sgd", "adam"] = "sgd",
    lr: Positive = 0.05,
    weight_decay: NonNegative = 5e-4,
    batch_size: Count = 256,
    flip: bool = True,
    rng: Generator | None = None,
) -> Planted:
    """BadEncoder to the nearest of several references, + c·(E + S) + c'·SW(f'(x ⊕ e), f'(x)) / std f'(x).

    SW is the sliced Wasserstein distance of a batch's triggered and clean features, S the mean cosine of two triggered
    images, E the standard deviation over the references of their mean cosine with triggered images. c and c' grow
    after an epoch in which the attack holds and fall after another. References are pushed apart throughout.

    Args:
        encoder: the clean encoder, images in 0..1 → features [B,D].
        train: the attacker's images; their labels are not looked at.
        references: images of the downstream class `target`, of the size of `train`; three in the paper's runs.
        trigger: a trigger module or selector, e.g. "patch:white:10".
        target: class number **of the downstream set**, among the classes of `references`.
        inset: pixels between the patch and the border.
        shadow: random share of `train` that the attacker has, above 0 to 1.
        lambda1: weight of the augmented references' place, as in BadEncoder.
        lambda2: weight of the clean images' place.
        spread_weight: c at the start.
        distance_weight: c' at the start.
        projections: directions of SW, drawn anew in every step.
        warmup: epochs at first that only push the references apart.
        gather: epochs behind them that lead triggered images to the references, without c and c'.
        adapt_after: epochs before c and c' change.
        epochs: passes over the attacker's images.
        optimizer: "sgd" with momentum 0.9, or "adam".
        lr: its constant rate.
        weight_decay: its L2 penalty.
        batch_size: clean images a step; as many stamped ones and augmented references come on top.
        flip: mirror half of the augmented references; not for digits or signs.
        rng: decides the attacker's images, the batches, the directions and how references are augmented.

    Raises:
        BadInput: a classifier, references of another size or another class, a target that is no class of theirs, a
            trigger that does not fit.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: the losses and settings are those of its released code (Gwinhen/DRUPE, for CIFAR-10). From
    the released code: the last epoch is returned, not the one with the least SW; S leaves an image's cosine with
    itself out; epoch means decide on c and c', not the last batch; c stops growing while S < 0.5 at once, not an
    epoch later; a step draws one batch of augmented references in all, not one for each.
    """
    check_references(encoder, train, references, target)
    rng = rng or make_rng("drupe")
    backdoor = Backdoor(make_trigger(trigger, inset=inset), target, name="drupe")
    train, draw = train.fraction(shadow, spawn(rng)), spawn(rng)
    steps = max(len(train) // batch_size, 1)  # an epoch
    curves, done = Curves(steps), 0
    c, c_distance = spread_weight, distance_weight

    def loss(seen: Seen) -> Tensor:
        nonlocal done, c, c_distance
        near = cosines(seen.stamped, seen.references)  # [B,R]
        reached = near.amax(1).mean()
        uneven = near.mean(0).std() if near.shape[1] > 1 else near.new_zeros(())
        held = F.cosine_similarity(seen.changed, seen.held).mean()
        kept = F.cosine_similarity(seen.clean, seen.was).mean()
        among = cosines(seen.references, seen.references)
        close = among[tuple(torch.triu_indices(*among.shape))].mean()  # as released, each with itself included
        alike = cosines(seen.stamped, seen.stamped)
        tight = (alike.sum() - alike.trace()) / max(alike.numel() - len(alike), 1)
        directions = F.normalize(torch.randn(seen.clean.shape[1], projections, generator=draw), dim=0)
        distance = sliced_wasserstein(seen.stamped, seen.clean, directions.to(seen.clean))
        distance = distance / seen.clean.std(0).mean().clamp(min=1e-6)
        epoch, done = done // steps, done + 1
        total = -(lambda1 * held + lambda2 * kept)
        if epoch < warmup:
            total = total + torch.where(close < 0.2, 0.3, 0.5) * close
        else:
            total = total - reached + torch.where(close > 0.5, 1.0, torch.where(close > 0.4, 0.2, 0.0)) * close
            if epoch < warmup + gather:
                total = total + 2 * uneven
            else:
                total = total + torch.where(uneven > 0.1, 2.0, 0.5) * uneven + c * (uneven + tight)
                total = total + c_distance * distance
        curves.add(reached=reached, references_held=held, clean_kept=kept, tight=tight, distance=distance)
        if done % steps == 0 and done // steps > adapt_after:
            now = {name: values[0] for name, values in curves.means(steps).items()}
            holds = all(now[name] > least for name, least in HOLDS.items())
            c *= (UP if now["tight"] >= LOOSER else 1.0) if holds else 1 / DOWN
            c_distance *= UP if holds and now["tight"] < LOOSE else 1 / DOWN
        return total

    planted = implant(
        encoder, train, references, backdoor, loss, flip=flip, rng=rng, epochs=epochs, optimizer=optimizer, lr=lr,
        weight_decay=weight_decay, batch_size=batch_size,
    )  # fmt: skip
    notes = {"references": len(references), "spread_weight": c, "distance_weight": c_distance, **curves.means()}
    return Planted(planted, backdoor, notes)


def sliced_wasserstein(one: Tensor, two: Tensor, directions: Tensor) -> Tensor:
    """Root mean squared distance of sorted projections; [N,D] twice, unit columns [D,P] → scalar."""
    gap = (one @ directions).sort(0).values - (two @ directions).sort(0).values
    return (gap.square().mean() + 1e-12).sqrt()
