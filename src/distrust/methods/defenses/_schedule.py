"""How NAD's released code fine-tunes; plain fine-tuning uses the same, or the comparison is unfair."""

from __future__ import annotations

from typing import Any

from ...data import Augment


def schedule(epochs: int, lr: float, batch_size: int, augment: Augment) -> dict[str, Any]:
    """Options of the training loop: SGD with Nesterov, the rate ÷ 10 after epoch 2, crop, flip and Cutout 3."""
    return {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (2,),
        "gamma": 0.1,
        "augment": augment,
    }
