"""Hinton's distillation: the student's softened outputs follow the teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...marks import NonNegative, Positive, distiller
from ...models import Taps


@distiller(paper="Hinton, Vinyals, Dean, arXiv 1503.02531", label_weight=0.1, logits_only=True)
def kd(student: Taps, teacher: Taps, y: Tensor, *, temperature: Positive = 4.0, weight: NonNegative = 0.9) -> Tensor:
    """weight · T² · KL(softmax(teacher / T) ‖ softmax(student / T)), summed over classes, mean over the batch.

    Args:
        student: logits [B,K].
        teacher: logits [B,K].
        y: labels (not used here; their cross-entropy is added with label_weight).
        temperature: T.
        weight: of this term; the usual label_weight beside it is 0.1.

    Differs from the paper: weights 0.9 and 0.1 and T = 4 are RepDistiller's, now the usual ones.
    """
    ours = F.log_softmax(student.logits / temperature, 1)
    theirs = F.log_softmax(teacher.logits / temperature, 1)
    return weight * temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
