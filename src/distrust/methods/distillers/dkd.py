"""Decoupled distillation: how sure the teacher is of the target class, and how it ranks the others, weighed apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...marks import NonNegative, Positive, distiller
from ...models import Taps


@distiller(
    paper="Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679",
    label_weight=1.0, logits_only=True,
)  # fmt: skip
def dkd(
    student: Taps,
    teacher: Taps,
    y: Tensor,
    *,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 8.0,
    temperature: Positive = 4.0,
) -> Tensor:
    """T² · (alpha · TCKD + beta · NCKD), mean over the batch.

    TCKD is KL(teacher ‖ student) between (target, not target); NCKD is KL(teacher ‖ student) among the other
    classes, renormalised to 1. Hinton's loss is TCKD + (1 − the teacher's probability of the target) · NCKD.

    Args:
        student: logits [B,K].
        teacher: logits [B,K].
        y: labels [B], or soft labels [B,K], of which the largest is the target.
        alpha: weight of TCKD.
        beta: weight of NCKD.
        temperature: T.

    Differs from the paper: the released code multiplies the loss by min(epoch / 20, 1); here its weight is full from
    the start, so a large beta may want a lower lr. The released code sets beta for each pair, 2 to 8 on CIFAR-100.
    """
    target = (y.argmax(1) if y.ndim == 2 else y)[:, None]
    target_s, rest_s, others_s = _decouple(student.logits / temperature, target)
    target_t, rest_t, others_t = _decouple(teacher.logits / temperature, target)
    tckd = _kl(torch.cat([target_s, rest_s], 1), torch.cat([target_t, rest_t], 1))
    nckd = _kl(others_s, others_t)
    return temperature**2 * (alpha * tckd + beta * nckd)


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the target [B,1], of all other classes together [B,1], and among the others [B,K-1]."""
    log_p = logits.log_softmax(1)
    classes = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = log_p.gather(1, classes + (classes >= target))  # skips the target
    rest = others.logsumexp(1, keepdim=True)
    return log_p.gather(1, target), rest, others - rest


def _kl(ours: Tensor, theirs: Tensor) -> Tensor:
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
