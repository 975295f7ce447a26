"""Correlation congruence: images that are alike to the teacher are as much alike to the student."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...marks import Count, NonNegative, Positive, distiller
from ...models import Taps
from ._embedding import embedding


@distiller(
    paper="Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, arXiv 1904.01802",
    label_weight=1.0, auto="embedding",
)  # fmt: skip
def cc(
    student: Taps,
    teacher: Taps,
    y: Tensor,
    *,
    weight: NonNegative = 100.0,
    kernel: Literal["rbf", "bilinear"] = "rbf",
    gamma: Positive = 0.4,
    order: Count = 2,
) -> Tensor:
    """weight · mean squared difference of the B×B correlation matrices of student and teacher.

    The correlation of two embeddings of length 1 is their Gaussian RBF exp(−γ‖a − b‖²), of which the Taylor series
    around a·b = 0 is taken: exp(−2γ) · Σ_p (2γ)^p / p! · (a·b)^p. Widths may differ.

    Args:
        student: the last feature is the embedding, [B,D]; a map [B,C,H,W] is averaged over its pixels.
        teacher: the same of the teacher.
        y: labels (not used here; their cross-entropy is added with label_weight).
        weight: of this term.
        kernel: "rbf", or "bilinear" for a·b itself.
        gamma: γ of the RBF.
        order: last p of its series.

    Raises:
        BadInput: the last tapped layer is no embedding.

    Differs from the paper: only the correlation term, on embeddings as they are, without connectors and without a
    sampler. Weight, γ and order are those of Knowledge-Distillation-Zoo on CIFAR-10. RepDistiller's loss of this
    name is another one (differences |s − t| of 128-d projections, multiplied between neighbours in the batch), and
    its weight 0.02 does not carry over.
    """
    ours, theirs = (_correlation(embedding(read), kernel, gamma, order) for read in (student, teacher))
    return weight * F.mse_loss(ours, theirs)


def _correlation(e: Tensor, kernel: str, gamma: float, order: int) -> Tensor:
    """[B,D] → [B,B]."""
    e = F.normalize(e, dim=1)
    cosine = e @ e.T
    if kernel == "bilinear":
        return cosine
    powers = ((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(1, order + 1))
    return math.exp(-2 * gamma) * sum(powers, torch.ones_like(cosine))
