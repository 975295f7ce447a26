"""CTRL: a pattern of two frequencies in the colours of a few images of one class, labels untouched."""

from __future__ import annotations

from typing import Any

from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, NonNegative, Rate, attack
from ._poison import Poisoned, Stamp, plant


@attack(
    paper="Li, Pang, Xi, Du, Ji, Yao, Wang, An Embarrassingly Simple Backdoor Attack on Self-supervised Learning, "
    "ICCV 2023, arXiv 2210.07346",
    place=1,
)
def ctrl(
    train: ImageSet,
    *,
    trigger: Any = "frequency",
    magnitude: NonNegative = 100.0,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Add a pattern to the colours of a share of the target class's images and keep their label.

    Args:
        train: the images that the victim pre-trains on; their labels tell the attacker which to stamp.
        trigger: a trigger module or selector, e.g. "frequency[bands=[7,31]]".
        magnitude: what is added to the DCT coefficients, in grey levels.
        target: class number whose images the pattern should resemble.
        rate: stamped images as a share 0..1 of the **target class's** images (no other image is touched); 0.1 is the
            released code's 1 % of all images of CIFAR-10.
        stamp: "before" augmentation or "after" it. Pre-training draws its views behind both, and crops scale the
            pattern.
        rng: decides which images are stamped.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1.

    Differs from the released code: random images of the class, not its first; stamped images are rounded to 8 bits.
    """
    return plant(
        "ctrl", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, clean_label=True,
        magnitude=magnitude,
    )  # fmt: skip
