"""Distribution matching: what DM, IDM, DoorPing and recondensation share. Zhao, Bilen, arXiv 2110.04181."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._canvas import Change


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
