"""Overhaul (OFD, called COFD in CheatKD): features before the ReLU, with the teacher's useless negatives cut off."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...marks import NonNegative, distiller
from ...models import Taps, norm_at
from ._connect import bound, connector, halving, pairs, same_size


@distiller(
    paper="Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, arXiv 1904.01866",
    label_weight=1.0, auto="pre-relu", teacher_mode="train",
)  # fmt: skip
class Overhaul(nn.Module):
    """Partial L2 between the connected student feature and the teacher's, behind a margin ReLU.

    Per layer i of n: Σ (s − t')² where s > t' or t' > 0, with t' = max(t, margin), summed over positions,
    averaged over the batch, divided by 2^(n−1−i), and multiplied by the weight.

    Args:
        weight: of the whole sum (1/1000 on CIFAR, 1/10000 on ImageNet in the released code).

    Raises:
        BadInput: a tapped layer is no feature map.

    Differs from the paper: the layers are found by rule (before the ReLU at the group ends; see `resolve`), and of
    a teacher without BatchNorm the margin is the mean of the negative values of each channel in the batches so far.
    """

    def __init__(self, *, weight: NonNegative = 1e-3) -> None:
        super().__init__()
        self.weight = weight
        self.connectors: nn.ModuleList | None = None
        self.running: list[Tensor | None] = []  # sums of negatives and their counts, where no BatchNorm tells

    def bind(self, student: Taps, teacher: Taps, model: nn.Module) -> None:
        """Build a connector for each pair of layers and read the margins off the teacher's BatchNorms."""
        self.connectors, self.running = nn.ModuleList(), []
        for i, ((_, ours, theirs), path) in enumerate(zip(pairs(student, teacher), teacher.features, strict=True)):
            self.connectors.append(connector(ours.shape[1], theirs.shape[1]))
            norm = norm_at(model, path)
            cut = margin(norm.weight, norm.bias) if norm is not None and norm.affine else None
            self.register_buffer(f"margin{i}", torch.zeros(theirs.shape[1]) if cut is None else cut)
            self.running.append(torch.zeros(2, theirs.shape[1]) if cut is None else None)

    def forward(self, student: Taps, teacher: Taps, y: Tensor) -> Tensor:
        """The loss; features [B,C,H,W]."""
        found = pairs(student, teacher)
        connectors = bound(self.connectors, len(found))
        total = student.logits.new_zeros(())
        for i, (part, (_, ours, theirs)) in enumerate(zip(halving(len(found)), found, strict=True)):
            ours, theirs = same_size(connectors[i](ours), theirs)
            target = torch.maximum(theirs, self._margin(i, theirs)[:, None, None])
            counts = (ours > target) | (target > 0)
            total = total + part * ((ours - target).square() * counts).sum() / len(ours)
        return self.weight * total

    def _margin(self, i: int, theirs: Tensor) -> Tensor:
        seen = self.running[i]
        if seen is None:
            return getattr(self, f"margin{i}")
        seen = seen.to(theirs)
        seen = seen + torch.stack([theirs.clamp(max=0).sum((0, 2, 3)), (theirs < 0).sum((0, 2, 3)).to(theirs)])
        self.running[i] = seen
        return seen[0] / seen[1].clamp(min=1)


def margin(scale: Tensor, shift: Tensor) -> Tensor:
    """E[x | x < 0] of x ~ N(shift, scale²), which is what a BatchNorm puts out; [C] → [C].

    Where less than a thousandth of the mass is negative, −3·scale, as in the released code.
    """
    s, m = scale.detach().double().abs(), shift.detach().double()
    mass = torch.special.ndtr(-m / s)
    density = torch.exp(-((m / s) ** 2) / 2) / math.sqrt(2 * math.pi)
    return torch.where(mass > 1e-3, m - s * density / mass, -3 * s).to(scale.dtype)
