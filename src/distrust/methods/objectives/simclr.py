"""SimCLR: of all images in a batch, a view should recognise the other view of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...marks import Count, Positive, objective
from ._contrast import nt_xent
from ._projector import projector


@objective(paper="Chen, Kornblith, Norouzi, Hinton, SimCLR, ICML 2020, arXiv 2002.05709")
class SimCLR(nn.Module):
    """NT-Xent: cross-entropy over cosines / τ of a view's partner against all other views in the batch.

    Args:
        temperature: τ.
        hidden: width of the projector.
        out: dimensions in which views are compared.

    Differs from the paper: Adam and τ = 0.5 are BadEncoder's code's for CIFAR-10.
    """

    def __init__(self, temperature: Positive = 0.5, hidden: Count = 512, out: Count = 128) -> None:
        super().__init__()
        self.temperature, self.hidden, self.out = temperature, hidden, out

    def bind(self, features: int) -> None:
        """Make the projector for features [B,D] of this size."""
        self.projector = projector(features, self.hidden, self.out)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Features [B,D] of two views → scalar."""
        return nt_xent(self.projector(torch.cat([one, two])), self.temperature)
