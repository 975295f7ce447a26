"""Range clip: what is left of a synthetic set once it has been a set of image files."""

from __future__ import annotations

import torch
from torch import Generator

from ...data import ImageSet
from ...marks import Bits, defense
from .._costs import free


@defense(paper="ours: the round trip through image files", on="synthetic", cost=free)
def range_clip(synthetic: ImageSet, *, bits: Bits = 8, rng: Generator | None = None) -> ImageSet:
    """Clamp pixels to 0..1 and round them to 2^bits levels.

    Args:
        synthetic: the set.
        bits: a channel; 8 is what a PNG holds.
        rng: not used.

    Differs from the paper: there is none. An off-range trigger does not survive it; a legal one does not notice.
    """
    most = 2**bits - 1
    return synthetic.replace(x=torch.round(synthetic.pixels().clamp(0, 1) * most) / most, off_range=False)
