"""Blend: a key image over some training images, with the target's label."""

from __future__ import annotations

from typing import Any

from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, Rate, attack
from ._poison import Poisoned, Stamp, plant


@attack(paper="Chen et al., Targeted Backdoor Attacks, arXiv 1712.05526", place=1)
def blend(
    train: ImageSet,
    *,
    trigger: Any = "blend",
    alpha: Rate = 0.2,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Blend a key image over a share of the training images and label them as the target.

    Args:
        train: the training images.
        trigger: a trigger module or selector, e.g. "blend:hello.png".
        alpha: blend weight 0..1, in training and in the test.
        target: class number that the trigger should lead to.
        rate: stamped images as a share 0..1 of all training images; only images of other classes are stamped.
        stamp: "before" augmentation or "after" it. The key covers the image, so there is no inset.
        rng: decides which images are stamped.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1.

    Differs from the paper: the same weight in training and in the test, as benchmarks do.
    """
    return plant("blend", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, alpha=alpha)
