"""Distribution matching: what DM, IDM, DoorPing and recondensation share. Zhao, Bilen, arXiv 2110.04181."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._costs import CLASSES, LOOK
from ._canvas import Change


def matching_cost(options: dict[str, Any], n: int) -> float:
    """A look at the real images and a step of the synthetic ones, of ten classes."""
    made = options["images_per_class"] * options.get("factor", 1) ** 2
    return options["iterations"] * CLASSES * (LOOK * options["batch_real"] + made)


def changed(parts: Sequence[Tensor], changes: Sequence[Change]) -> Tensor:
    """The images of all classes in one batch, each class through its own change."""
    return torch.cat([change(x) for change, x in zip(changes, parts, strict=True)])


@torch.no_grad()
def means(embed: Callable[[Tensor], Tensor], parts: Sequence[Tensor], changes: Sequence[Change]) -> Tensor:
    """Mean ψ(A(x)) of every class [K,D]; a class may have any number of images."""
    seen = embed(changed(parts, changes))
    return torch.stack([part.mean(0) for part in seen.split([len(x) for x in parts])])


def gap(goal: Tensor, made: Tensor) -> Tensor:
    """Σ_c ‖goal_c − mean of what was made for c‖²; [K,D], and [K·n,D] class after class → scalar."""
    return (goal - made.unflatten(0, (len(goal), -1)).mean(1)).square().sum()
