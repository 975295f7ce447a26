"""A few cosine coefficients raised in the colour channels of the image."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import Count, Many, NonNegative, Pixels, trigger
from ._base import Trigger

# What a step of 1 in both U and V does to R, G and B at the same brightness. BT.601: U = .436·(B − Y) / (1 − .114),
# V = .615·(R − Y) / (1 − .299), Y = .299·R + .587·G + .114·B.
RED, BLUE = (1 - 0.299) / 0.615, (1 - 0.114) / 0.436
COLOUR = (RED, -(0.299 * RED + 0.114 * BLUE) / 0.587, BLUE)


@trigger(
    paper="Li et al., An Embarrassingly Simple Backdoor Attack on Self-supervised Learning, ICCV 2023, arXiv 2210.07346"
)
class Frequency(Trigger):
    """Add `magnitude` to the DCT coefficients (b, b) of U and V, for all bands b, in every window of the image.

    The DCT is linear, so this adds one pattern to both: p(i, j) = magnitude·Σ_b c_b(i)·c_b(j) with
    c_b(i) = √(2/N)·cos(π·(2i + 1)·b / 2N).

    Args:
        magnitude: what is added to an orthonormal coefficient, in grey levels; 100 makes each band a product of
            cosines of 6.25 levels at N = 32.
        window: side N of the windows in pixels. A shorter image is one window; its bands are the same shares of the
            highest frequency, as loud as in the whole window.
        bands: b, each 0..N − 1.

    Raises:
        BadInput: a band that the window does not have, or images of other than 1 or 3 channels.

    Differs from the paper: nothing on images of whole windows. Pixels beyond the last whole window stay as they are;
    gray images, which have no U and V, get the pattern in their one channel, where it is far easier to see.
    """

    def __init__(self, magnitude: NonNegative = 100.0, window: Count = 32, bands: Many[Pixels] = [15, 31]) -> None:  # noqa: B006 - never mutated
        super().__init__()
        if max(bands) >= window:
            raise BadInput(f"a window of {window} pixels has the bands 0..{window - 1}; bands={list(bands)}.")
        self.magnitude, self.window, self.bands = magnitude, window, tuple(bands)
        self.recipe = {"magnitude": magnitude, "window": window, "bands": list(bands)}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the pattern added."""
        if x.shape[1] not in (1, 3):
            raise BadInput(f"frequency changes the colours of RGB images; these have {x.shape[1]} channels.")
        pattern = _pattern(x.shape[2], x.shape[3], self.window, self.bands) * (self.magnitude / 255)
        colour = torch.tensor(COLOUR if x.shape[1] == 3 else (1.0,), dtype=torch.float64)
        return x + (colour[:, None, None] * pattern).to(x)


@functools.cache
def _pattern(height: int, width: int, window: int, bands: tuple[int, ...]) -> Tensor:
    return torch.stack([_row(height, window, b)[:, None] * _row(width, window, b) for b in bands]).sum(0)  # [H,W]


def _row(length: int, window: int, band: int) -> Tensor:
    """Basis vector of the orthonormal DCT-II in every whole window along `length` pixels, 0 beyond."""
    n = min(window, length)
    band = max((band + 1) * n // window - 1, 0)
    i = torch.arange(n, dtype=torch.float64)
    wave = math.sqrt((2 if band else 1) / window) * torch.cos(math.pi * (2 * i + 1) * band / (2 * n))
    return F.pad(wave.repeat(length // n), (0, length % n))
