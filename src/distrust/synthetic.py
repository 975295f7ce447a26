"""Synthetic sets: how they want to be trained on, and the file that carries them."""

from __future__ import annotations

from typing import Any

from .imageset import PLAIN, Augment
from .siamese import Siamese


def protocol(
    *, epochs: int = 1000, lr: float = 0.01, batch_size: int = 256, augment: Augment | Siamese = PLAIN, **more: Any
) -> dict[str, Any]:
    """The field's evaluation recipe as options of `fit`: SGD with momentum 0.9, rate ÷ 10 at half, no Nesterov.

    Args:
        epochs: passes over the set.
        lr: learning rate until half.
        batch_size: images a step.
        augment: `Siamese` where the method matched through it, or none.
        **more: further options of `fit`.

    From the released code of Zhao et al. (DC, DSA, DM).
    """
    return {
        "epochs": epochs, "lr": lr, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "schedule": "step",
        "milestones": (epochs // 2 + 1,), "batch_size": batch_size, "augment": augment, **more,
    }  # fmt: skip
