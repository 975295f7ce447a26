"""VICReg: views agree, every dimension varies, no two say the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...marks import Count, NonNegative, objective
from ._projector import projector


@objective(paper="Bardes, Ponce, LeCun, VICReg, ICLR 2022, arXiv 2105.04906")
class VICReg(nn.Module):
    """λ·‖z₁ − z₂‖² + μ·Σ hinge(1 − std) + ν·Σ off-diagonal covariance².

    Args:
        invariance: λ.
        variance: μ.
        covariance: ν.
        width: of the expander and its output.

    Differs from the paper: an expander of two layers and width 512 in place of three and 8192; as in its code,
    distances are averaged over dimensions and hinges over the two views.
    """

    def __init__(
        self, invariance: NonNegative = 25.0, variance: NonNegative = 25.0, covariance: NonNegative = 1.0,
        width: Count = 512,
    ) -> None:  # fmt: skip
        super().__init__()
        self.invariance, self.variance, self.covariance, self.width = invariance, variance, covariance, width

    def bind(self, features: int) -> None:
        """Make the expander for features [B,D] of this size."""
        self.expander = projector(features, self.width, self.width)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Features [B,D] of two views → scalar."""
        z = torch.stack([self.expander(one), self.expander(two)])  # [2,B,D]
        centred = z - z.mean(1, keepdim=True)
        spread = (centred.square().sum(1) / (len(one) - 1) + 1e-4).sqrt()
        shared = centred.transpose(1, 2) @ centred / (len(one) - 1)  # [2,D,D]
        apart = shared.square().sum() - shared.diagonal(dim1=1, dim2=2).square().sum()
        return (
            self.invariance * F.mse_loss(z[0], z[1])
            + self.variance * F.relu(1 - spread).mean(1).sum() / 2
            + self.covariance * apart / z.shape[2]
        )
