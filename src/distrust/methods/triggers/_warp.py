"""What a warp and the attacks that plant one share."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def random_field(k: int, rng: Generator) -> Tensor:
    """U(−1, 1)^{2×k×k}, divided by its mean absolute value."""
    points = torch.rand(2, k, k, generator=rng) * 2 - 1
    return points / points.abs().mean()


def sampled(x: Tensor, grid: Tensor) -> Tensor:
    """Images [B,C,H,W] at the places of a grid [1 or B,H,W,2] in −1..1."""
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), mode="bilinear", align_corners=True)
