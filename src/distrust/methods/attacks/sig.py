"""SIG: a sinusoid on some images of the target class, with their true label."""

from __future__ import annotations

from typing import Any

from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, NonNegative, Rate, attack
from ._poison import Poisoned, Stamp, plant


@attack(
    paper="Barni, Kallas, Tondi, A New Backdoor Attack in CNNs by Training Set Corruption, ICIP 2019", place=1,
    clean_label=True,
)  # fmt: skip
def sig(
    train: ImageSet,
    *,
    trigger: Any = "sig",
    delta: NonNegative = 20.0,
    target: ClassNumber = 0,
    rate: Rate = 0.8,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Add a sinusoid to a share of the target class's images and keep their label.

    Args:
        train: the training images.
        trigger: a trigger module or selector, e.g. "sig[frequency=6]".
        delta: amplitude in grey levels, 0..255.
        target: class number that the trigger should lead to.
        rate: stamped images as a share 0..1 of the **target class's** images (no other image is touched).
        stamp: "before" augmentation or "after" it. The wave covers the image, so there is no inset.
        rng: decides which images are stamped.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1.

    Differs from the paper: the amplitude in training and in the test is the same; the default share is ours.
    """
    return plant(
        "sig", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, clean_label=True,
        delta=delta,
    )  # fmt: skip
