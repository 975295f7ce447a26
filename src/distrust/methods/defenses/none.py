"""No defence: the null row of every table."""

from __future__ import annotations

import copy

from torch import Generator, nn

from ...data import ImageSet
from ...marks import defense


@defense(paper="none", null=True, unlabelled=True)
def none(model: nn.Module, clean: ImageSet, *, rng: Generator | None = None) -> nn.Module:
    """Return a copy of the model as it is.

    Args:
        model: the suspect.
        clean: the defender's images (not used).
        rng: not used.

    Differs from the paper: there is none.
    """
    return copy.deepcopy(model).eval()
