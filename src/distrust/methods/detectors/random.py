"""A random score: the null row of detection."""

from __future__ import annotations

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...marks import detector
from ...measurement import Finding
from ...seeds import rng as make_rng


@detector(paper="null row", null=True, on="any")
def random(suspect: nn.Module | ImageSet, clean: ImageSet, *, rng: Generator | None = None) -> Finding:
    """Score every class by a uniform number.

    Args:
        suspect: not looked at.
        clean: says how many classes there are.
        rng: draws the numbers.

    Differs from the paper: there is none.
    """
    return Finding.of("random", torch.rand(len(clean.classes), generator=rng or make_rng("random detector")))
