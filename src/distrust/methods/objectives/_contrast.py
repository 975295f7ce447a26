"""The contrastive loss, which pre-training, attacks and defences share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of every row's partner among all others; of z [2B,D] rows i and B+i are one. SimCLR, equation 1."""
    z = F.normalize(z, dim=1)
    likeness = z @ z.T / temperature
    likeness.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(likeness, partner)
