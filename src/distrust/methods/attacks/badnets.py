"""BadNets: a patch on some training images, with the target's label."""

from __future__ import annotations

from typing import Any

from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, Pixels, Rate, attack
from ._poison import Poisoned, Stamp, plant


@attack(paper="Gu, Dolan-Gavitt, Garg, BadNets, arXiv 1708.06733", place=1)
def badnets(
    train: ImageSet,
    *,
    trigger: Any = "patch:grid",
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    stamp: Stamp = "before",
    inset: Pixels = 0,
    rng: Generator | None = None,
) -> Poisoned:
    """Stamp a patch on a share of the training images and label them as the target.

    Args:
        train: the training images.
        trigger: a trigger module or selector, e.g. "patch:grid", "patch:white:3".
        target: class number that the trigger should lead to.
        rate: stamped images as a share 0..1 of all training images; only images of other classes are stamped.
        stamp: "before" augmentation (a poisoned data set), or "after" it (the attacker trains the model).
        inset: pixels between the patch and the border; crop and flip can destroy a corner patch.
        rng: decides which images are stamped.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, a patch that does not fit.

    Differs from the paper: images that already have the target's class are never stamped.
    """
    return plant("badnets", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, inset=inset)
