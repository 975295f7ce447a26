"""DIST: the student's outputs correlate with the teacher's, over classes and over images; they need not be equal."""

from __future__ import annotations

from torch import Tensor

from ...marks import NonNegative, Positive, distiller
from ...models import Taps


@distiller(
    paper="Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536",
    label_weight=1.0, logits_only=True,
)  # fmt: skip
def dist(
    student: Taps,
    teacher: Taps,
    y: Tensor,
    *,
    beta: NonNegative = 2.0,
    gamma: NonNegative = 2.0,
    temperature: Positive = 4.0,
) -> Tensor:
    """T² · (beta · inter + gamma · intra) of softmax(logits / T), each 1 − the mean Pearson correlation.

    Inter-class: of the student's and the teacher's row for each image. Intra-class: of their column for each class.

    Args:
        student: logits [B,K].
        teacher: logits [B,K].
        y: labels (not used here; their cross-entropy is added with label_weight).
        beta: weight of the inter-class term.
        gamma: weight of the intra-class term.
        temperature: T (τ in the released code).

    Differs from the paper: T² and the defaults are the released code's, in its configuration for CIFAR-100 (for
    ImageNet it sets T = 1). Where that adds 1e-8 to the product of the two norms, here the product is at least 1e-8:
    otherwise the teacher's own answers would have a gradient.
    """
    ours, theirs = ((read.logits / temperature).softmax(1) for read in (student, teacher))
    inter = 1 - _pearson(ours, theirs).mean()
    intra = 1 - _pearson(ours.T, theirs.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of `a` with the same row of `b`: [N,M], [N,M] → [N]."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
