"""WaNet as poisoned data: some training images are warped, with the target's label, and no one controls training."""

from __future__ import annotations

from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, NonNegative, Rate, Several, attack
from ...measurement import make_trigger
from ...seeds import rng as make_rng
from ...seeds import spawn
from ..triggers._warp import random_field
from ._poison import Poisoned, Stamp, plant


@attack(paper="the warp of Nguyen, Tran, WaNet, ICLR 2021, arXiv 2102.10369, without its training", place=1)
def wanet_poison(
    train: ImageSet,
    *,
    strength: NonNegative = 0.5,
    points: Several = 4,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Warp a share of the training images by one smooth random field and label them as the target.

    Args:
        train: the training images.
        strength: s of the warp; at 1 a pixel moves by half a pixel on average.
        points: side k of the coarse field.
        target: class number that the warp should lead to.
        rate: warped images as a share 0..1 of all training images; only images of other classes are warped.
        stamp: "before" augmentation or "after" it. The warp covers the image, so there is no inset.
        rng: decides the field, and which images are warped.

    Raises:
        BadInput: a target that is no class, or a rate outside 0..1.

    Differs from the paper: there the attacker trains the network, and shows it images that are warped in other ways
    under their true labels; that is `wanet`. Without these, any warp may do, and the attack is another, weaker one.
    """
    rng = rng or make_rng("wanet_poison")
    trigger = make_trigger("warp", field=random_field(points, spawn(rng)), strength=strength)
    return plant("wanet_poison", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng)
