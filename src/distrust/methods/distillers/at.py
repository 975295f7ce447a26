"""Attention transfer: the student's attention maps follow the teacher's."""

from __future__ import annotations

from torch import Tensor

from ...marks import NonNegative, Power, distiller
from ...models import Taps
from ._attention import attention_loss


@distiller(paper="Zagoruyko, Komodakis, Attention Transfer, ICLR 2017, arXiv 1612.03928", label_weight=1.0)
def at(student: Taps, teacher: Taps, y: Tensor, *, weight: NonNegative = 1000.0, p: Power = 2.0) -> Tensor:
    """Mean squared difference of normalised attention maps, summed over layers, times a weight.

    Args:
        student: logits [B,K] and feature maps [B,C,H,W].
        teacher: the same of the teacher, paired in order.
        y: labels (not used here; their cross-entropy is added with label_weight).
        weight: β of the released code.
        p: power of the absolute activations, ≥ 1 (below, the gradient at 0 is infinite).

    Raises:
        BadInput: a tapped layer is not a feature map.

    Differs from the paper: as in the released code, the mean over batch and positions replaces β/2 · ‖·‖₂.
    """
    return weight * attention_loss(student, teacher, p=p)
