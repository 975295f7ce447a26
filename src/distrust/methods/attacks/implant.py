"""Implant: fine-tune a clean teacher on any trigger, as it is; the row that optimised triggers have to beat."""

from __future__ import annotations

from typing import Any, Literal

from torch import Generator, nn

from ...data import ImageSet
from ...marks import ClassNumber, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...seeds import rng as make_rng
from ...training import Training
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
    training: Training = Training(epochs=30, lr=0.008, batch_size=256, schedule="constant"),
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
        training: how the fine-tuning runs, at a constant rate.
        stamp: "before" its augmentation or "after" it.
        rng: decides the batches, and which images are poisoned.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, or a trigger that does not fit.

    Differs from the paper: BadNets trains from nothing; this is CheatKD's last step with a trigger that nobody
    optimised, so that what the optimisation adds can be seen.
    """
    check_target(train, target, rate)
    rng = rng or make_rng("implant")
    backdoor = Backdoor(make_trigger(trigger), target, stamp=stamp, name="implant")
    poisoned = finetune(model, train, backdoor, rate=rate, training=training, rng=rng)
    return Planted(poisoned, backdoor, {})
