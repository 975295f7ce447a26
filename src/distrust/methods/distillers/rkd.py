"""Relational distillation: the student's embeddings keep the teacher's distances and angles among images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...marks import NonNegative, distiller
from ...models import Taps
from ._embedding import embedding


@distiller(
    paper="Park et al., Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068",
    label_weight=1.0, auto="embedding",
)  # fmt: skip
def rkd(
    student: Taps, teacher: Taps, y: Tensor, *, distance_weight: NonNegative = 25.0, angle_weight: NonNegative = 50.0
) -> Tensor:
    """Smooth L1 between the distances of all pairs, and between the cosines of the angles of all triplets.

    Distances are divided by their mean over pairs that do not coincide. An angle is that at image i between the
    directions to images j and k. Widths may differ. Memory grows with B³: 8 MB per tensor at B = 128, 0.5 GB at 512.

    Args:
        student: the last feature is the embedding, [B,D]; a map [B,C,H,W] is averaged over its pixels.
        teacher: the same of the teacher.
        y: labels (not used here; their cross-entropy is added with label_weight).
        distance_weight: of the distances.
        angle_weight: of the angles.

    Raises:
        BadInput: the last tapped layer is no embedding.

    Differs from the paper: as in the released code, smooth L1 is averaged over all pairs and all triplets, an image
    with itself included. The weights are RepDistiller's for classification; the released code, for metric learning
    alone, takes 1 and 2.
    """
    distances_s, angles_s = _relations(embedding(student))
    distances_t, angles_t = _relations(embedding(teacher))
    distance, angle = F.smooth_l1_loss(distances_s, distances_t), F.smooth_l1_loss(angles_s, angles_t)
    return distance_weight * distance + angle_weight * angle


def _relations(e: Tensor) -> tuple[Tensor, Tensor]:
    """Relative distances [B,B] and cosines of angles [B,B,B]; both are 0, without gradient, where points coincide."""
    towards = e[None] - e[:, None]  # [i,j] = e_j − e_i
    lengths = towards.norm(dim=2)  # taken from the differences: its gradient at 0 is 0, not NaN
    mean = lengths.sum() / (lengths > 0).sum().clamp(min=1)
    directions = towards / lengths[:, :, None].clamp(min=1e-12)
    return lengths / mean.clamp(min=1e-12), directions @ directions.mT
