"""How NAD's released code fine-tunes; plain fine-tuning uses the same, or the comparison is unfair."""

from __future__ import annotations

from ...data import Augment
from ...training import Training

FINETUNING = Training(
    epochs=10, lr=0.1, batch_size=64, weight_decay=1e-4, schedule="step", milestones=(2,), augment=Augment(cutout=3)
)
