"""Implant: fine-tune a clean teacher on any trigger, as it is; the row that optimised triggers have to beat."""

from __future__ import annotations

from typing import Any, Literal

from torch import Generator, nn

from ...data import Augment, ImageSet
from ...measurement import Backdoor, make_trigger
from ...registry import ClassNumber, Count, Pixels, Positive, Rate, attack
from ...seeds import rng as make_rng
from ._poison import check_target
from ._teacher import Planted, finetune


@attack(paper="Gu, Dolan-Gavitt, Garg, BadNets, arXiv 1708.06733, on a trained model", place=2, null=True)
def implant(
    model: nn.Module,
    train: ImageSet,
    *,
    trigger: Any = "patch:grid",
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    epochs: Count = 30,
    lr: Positive = 0.008,
    batch_size: Count = 256,
    flip: bool = True,
    crop: Pixels = 4,
    stamp: Literal["before", "after"] = "before",
    rng: Generator | None = None,
) -> Planted:
    """Train a clean teacher on with a share of triggered images that carry the target's label.

    Args:
        model: the clean teacher.
        train: the attacker's training images.
        trigger: a trigger module or selector, e.g. "patch:grid", "masked[mask=0.2]" (noise over the whole image).
        target: class number that the trigger should lead to.
        rate: poisoned images as a share 0..1 of all training images; only other classes are poisoned.
        epochs: passes of the fine-tuning.
        lr: constant rate of its SGD.
        batch_size: images a step.
        flip: mirror half of the images; not for digits or signs.
        crop: shift them by up to so many pixels.
        stamp: "before" that augmentation or "after" it.
        rng: decides the batches, and which images are poisoned.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, or a trigger that does not fit.

    Differs from the paper: BadNets trains from nothing; this is CheatKD's last step with a trigger that nobody
    optimised, so that what the optimisation adds can be seen.
    """
    check_target(train, target, rate)
    rng = rng or make_rng("implant")
    backdoor = Backdoor(make_trigger(trigger), target, stamp=stamp, name="implant")
    poisoned = finetune(
        model, train, backdoor, rate=rate, epochs=epochs, lr=lr, batch_size=batch_size,
        augment=Augment(flip, crop), rng=rng,
    )  # fmt: skip
    return Planted(poisoned, backdoor, {})
