"""SimSiam: predict the other view, without negatives."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...marks import Count, objective
from ._projector import projector


@objective(paper="Chen, He, Exploring Simple Siamese Representation Learning, CVPR 2021, arXiv 2011.10566")
class SimSiam(nn.Module):
    """−½·cos(p₁, stop(z₂)) − ½·cos(p₂, stop(z₁)); p is predicted from z. What stops does not collapse.

    Args:
        hidden: width of projector and output.
        bottleneck: width of the predictor.

    Differs from the paper: a projector of two layers, as the paper has it for CIFAR-10, of width 512.
    """

    def __init__(self, hidden: Count = 512, bottleneck: Count = 128) -> None:
        super().__init__()
        self.hidden, self.bottleneck = hidden, bottleneck

    def bind(self, features: int) -> None:
        """Make projector and predictor for features [B,D] of this size."""
        out = nn.BatchNorm1d(self.hidden, affine=False)
        self.projector = nn.Sequential(projector(features, self.hidden, self.hidden), out)
        self.predictor = projector(self.hidden, self.bottleneck, self.hidden)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Features [B,D] of two views → scalar in −1..1."""
        z1, z2 = self.projector(one), self.projector(two)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        ahead, back = (F.cosine_similarity(p, z.detach()).mean() for p, z in ((p1, z2), (p2, z1)))
        return -(ahead + back) / 2
