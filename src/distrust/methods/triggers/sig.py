"""A sinusoid over the columns of the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import BadInput
from ...marks import NonNegative, trigger
from ._base import Trigger


@trigger(paper="Barni, Kallas, Tondi, A New Backdoor Attack in CNNs by Training Set Corruption, ICIP 2019")
class Sig(Trigger):
    """Add a horizontal sinusoid: v(i, j) = Δ·sin(2π·j·f / W), in 8-bit units.

    Args:
        delta: amplitude Δ in grey levels, 0..255 (20 in the paper; BackdoorBench uses 40).
        frequency: number f of periods over the width.

    Raises:
        BadInput: the wave is zero at every column, where 2f / W is a whole number.

    Differs from the paper: nothing; the sum is clamped to 0..1 where the trigger is stamped.
    """

    def __init__(self, delta: NonNegative = 20.0, frequency: NonNegative = 6.0) -> None:
        super().__init__()
        self.delta, self.frequency = delta, frequency
        self.recipe = {"delta": delta, "frequency": frequency}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the sinusoid added; columns j count from 0."""
        width = x.shape[3]
        column = torch.arange(width, device=x.device, dtype=torch.float64)
        if self.delta and 2 * self.frequency % width == 0:
            raise BadInput(
                f"{self.frequency:g} periods over {width} columns are zero at every pixel; change frequency."
            )
        wave = self.delta / 255 * torch.sin(2 * math.pi * column * self.frequency / width)
        return x + wave.to(x.dtype)
