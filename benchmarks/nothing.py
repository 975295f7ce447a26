"""A step that does nothing, as a plug-in: so every process that carries out stages has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distrust.data import ImageSet
from distrust.marks import defense
from distrust.study.steps import STEPS, Step


def number(before: dict[str, Tensor] | None = None, *, number: int) -> dict[str, Tensor]:
    """The number of a stage and of the one before it."""
    return {"number": torch.tensor([number, int(before["number"][0]) if before else 0])}


STEPS["nothing"] = Step(number, lambda options, n: 0.0, 1)


@defense(paper="none")
def nothing(model: nn.Module, clean: ImageSet) -> nn.Module:
    """What makes this file a plug-in."""
    return model
