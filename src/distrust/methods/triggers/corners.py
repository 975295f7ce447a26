"""A faint or loud pattern in each of the four corners."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import Levels, trigger
from ._base import Trigger

# The upper left corner; the other three mirror it, so that a mirrored image shows the same trigger.
CORNER = ((1, -1, -1), (-1, 1, -1), (1, -1, 1))


@trigger(paper="Turner, Tsipras, Madry, Label-Consistent Backdoor Attacks, arXiv 1912.02771")
class Corners(Trigger):
    """Add ± `amplitude` to the pixels of a 3×3 pattern in every corner: x' = x + amplitude·pattern.

    Args:
        amplitude: in grey levels 0..255; at 255 the corners are black and white whatever the image, 32 is the paper's
            fainter trigger.

    Raises:
        BadInput: images of less than 6×6 pixels, on which corners would overlap.

    Differs from the paper: nothing; the pattern is BackdoorBench's, and the sum is clamped where it is stamped.
    """

    def __init__(self, amplitude: Levels = 255) -> None:
        super().__init__()
        self.amplitude = amplitude
        self.recipe = {"amplitude": amplitude}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the corners on them."""
        height, width = x.shape[2:]
        if min(height, width) < 6:
            raise BadInput(f"four corners of 3×3 do not fit on images of {height}×{width}; they need 6×6.")
        left = F.pad(torch.tensor(CORNER), (0, width - 3, 0, height - 3))
        half = left + left.flip(1)
        return x + (half + half.flip(0)).to(x) * self.amplitude / 255
