"""Smoothing: a synthetic set under a Gaussian filter."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator

from ...data import ImageSet, as_8_bit
from ...marks import Positive, defense
from ...models import at_once
from .._costs import free

BATCH = 512


@defense(
    paper="ours: the spatial smoothing of Xu, Evans, Qi, Feature Squeezing, NDSS 2018, 1704.01155",
    on="synthetic", cost=free,
)  # fmt: skip
def smooth(
    synthetic: ImageSet,
    *,
    sigma: Positive = 1.0,
    size: Annotated[int, Field(ge=3, le=31)] = 5,
    rng: Generator | None = None,
) -> ImageSet:
    """Blur every image: patterns of a few pixels fade, the set's coarse shapes stay.

    Args:
        synthetic: the set.
        sigma: of the filter, in pixels.
        size: of the filter, in pixels; an even one is made odd.
        rng: not used.

    Differs from the paper: it squeezes what a model is asked, by a median; here training images are blurred.
    """
    from kornia.filters import gaussian_blur2d  # takes a second to import

    side = size | 1
    parts = synthetic.batches(at_once(synthetic.x.shape[1:], BATCH))
    x = torch.cat([as_8_bit(gaussian_blur2d(part, (side, side), (sigma, sigma))) for part, _ in parts])
    return synthetic.replace(x=x, off_range=False)
