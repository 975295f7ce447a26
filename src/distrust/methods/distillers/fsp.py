"""FSP: the student's flow from layer to layer, as Gram matrices, becomes the teacher's."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput, Skip
from ...marks import NonNegative, distiller
from ...models import Taps
from ._connect import pairs, same_size


@distiller(
    paper="Yim et al., A Gift from Knowledge Distillation, CVPR 2017",
    label_weight=1.0, auto="stem+groups", warmup=1 / 9,
)  # fmt: skip
def fsp(student: Taps, teacher: Taps, y: Tensor, *, weight: NonNegative = 1.0) -> Tensor:
    """Mean squared difference of the FSP matrices of consecutive layers, summed over the pairs of layers.

    Two stages: this loss alone for 1/9 of the epochs, then the labels alone.

    Args:
        student: at least two feature maps [B,C,H,W], in the order of the network.
        teacher: the same of the teacher, with the same numbers of channels.
        y: labels (not used here; their cross-entropy comes in the second stage, or with label_weight if warmup=0).
        weight: of this term.

    Raises:
        BadInput: a tapped layer is not a feature map, or there is one alone.
        Skip: a layer has other numbers of channels in the student than in the teacher.

    Differs from the paper: as in RepDistiller, features are taken at the ends of the groups and before the first, the
    mean replaces the sum of squares, and the first stage takes 30 of 270 epochs. Its weight 50 only multiplies a
    zero there, in the second stage; the first runs with 1.
    """
    found = pairs(student, teacher)
    if len(found) < 2:
        raise BadInput(f"FSP goes from layer to layer, but {len(found)} layer is tapped; name at least two.")
    for path, ours, theirs in found:
        if ours.shape[1] != theirs.shape[1]:
            raise Skip(
                f"FSP matrices are compared entry by entry, but layer {path!r} of the student has {ours.shape[1]} "
                f"channels and the teacher's {theirs.shape[1]}. Take models of one width, or another distiller."
            )
    total = student.logits.new_zeros(())
    for (_, ours, theirs), (_, next_ours, next_theirs) in pairwise(found):
        total = total + F.mse_loss(fsp_matrix(ours, next_ours), fsp_matrix(theirs, next_theirs))
    return weight * total


def fsp_matrix(a: Tensor, b: Tensor) -> Tensor:
    """G = Σ_hw a·bᵀ / (H·W), after the larger map is average-pooled: [B,C,…], [B,D,…] → [B,C,D]."""
    a, b = (f.flatten(2) for f in same_size(a, b))
    return a @ b.mT / a.shape[2]
