"""SSL-Backdoor: a patch on images of one category, which pre-training without labels ties to that category."""

from __future__ import annotations

from typing import Any

from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, Pixels, Rate, Share, attack
from ._poison import Poisoned, Stamp, plant


@attack(
    paper="Saha, Tejankar, Koohpayegani, Pirsiavash, Backdoor Attacks on Self-Supervised Learning, CVPR 2022, "
    "arXiv 2105.10123",
    place=1,
)
def ssl_backdoor(
    train: ImageSet,
    *,
    trigger: Any = "patch:checker",
    size: Share = 0.22,
    inset: Pixels | None = None,
    target: ClassNumber = 0,
    rate: Rate = 0.5,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Paste a patch on a share of the target class's images and keep their label, which pre-training does not see.

    Args:
        train: the images that the victim pre-trains on; their labels tell the attacker which to stamp.
        trigger: a trigger module or selector, e.g. "patch:checker".
        size: side of a named patch as a share of the image's shorter side, above 0 to 1; 50 of 224 pixels in the
            paper.
        inset: pixels between the patch and the border; None puts a named patch in the middle of a square image, where
            random crops keep it most often.
        target: class number whose images the patch should resemble.
        rate: stamped images as a share 0..1 of the **target class's** images (no other image is touched).
        stamp: "before" augmentation or "after" it. Pre-training draws its views behind both.
        rng: decides which images are stamped.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, a patch that does not fit.

    Differs from the paper: one fixed place for the patch, in training and in the test, not a random one in the middle
    half of every image; a checkerboard instead of the random colours of Hidden Trigger.
    """
    short = min(train.x.shape[2:])
    side = max(round(size * short), 1)
    return plant(
        "ssl_backdoor", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, clean_label=True,
        size=side, inset=(short - side) // 2 if inset is None else inset,
    )  # fmt: skip
