"""Activation boundaries: the student's neurons are active where the teacher's are, by a margin."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...marks import NonNegative, Positive, distiller
from ...models import Taps
from ._connect import bound, connector, halving, pairs, same_size


def _softened(student: Taps, teacher: Taps, y: Tensor) -> Tensor:
    """The second stage: KL(teacher ‖ student) at T = 3, not multiplied by T²."""
    ours, theirs = (F.log_softmax(read.logits / 3, 1) for read in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@distiller(
    paper="Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, "
    "AAAI 2019, arXiv 1811.03233",
    label_weight=0.0, auto="pre-relu", teacher_mode="train", warmup=0.5, then=_softened,
)  # fmt: skip
class AB(nn.Module):
    """Squared hinge between the connected student feature s and the sign of the teacher's t, before their ReLUs.

    Per layer i of n: Σ (s + margin)² where s > −margin and t ≤ 0, plus Σ (s − margin)² where s ≤ margin and t > 0,
    averaged over the batch, divided by 2^(n−1−i), and multiplied by the weight. The connectors are left out if all
    pairs of layers agree in width. Two stages: this loss alone, then softened outputs (T = 3) alone, without labels.

    Args:
        margin: m, > 0, in units of the features.
        weight: of the whole sum (3/1000 in the released code).

    Raises:
        BadInput: a tapped layer is no feature map.

    Differs from the paper: as in the released code, the second stage neither multiplies by T² nor sees labels. The
    code's stages of 1 + 1 epochs are a placeholder; warmup = 0.5 is that proportion, for want of another. As there, the
    teacher is in train mode in the first stage and in eval mode in the second.
    """

    def __init__(self, *, margin: Positive = 1.0, weight: NonNegative = 3e-3) -> None:
        super().__init__()
        self.margin, self.weight = margin, weight
        self.connectors: nn.ModuleList | None = None

    def bind(self, student: Taps, teacher: Taps, model: nn.Module) -> None:
        """Build a connector for each pair of layers, or none if all widths agree."""
        widths = [(ours.shape[1], theirs.shape[1]) for _, ours, theirs in pairs(student, teacher)]
        agree = all(ours == theirs for ours, theirs in widths)
        self.connectors = nn.ModuleList(nn.Identity() if agree else connector(*width) for width in widths)

    def forward(self, student: Taps, teacher: Taps, y: Tensor) -> Tensor:
        """The loss; features [B,C,H,W]."""
        found = pairs(student, teacher)
        connectors = bound(self.connectors, len(found))
        total = student.logits.new_zeros(())
        for part, connect, (_, ours, theirs) in zip(halving(len(found)), connectors, found, strict=True):
            s, t = same_size(connect(ours), theirs)
            silent = (s + self.margin).square() * ((s > -self.margin) & (t <= 0))
            active = (s - self.margin).square() * ((s <= self.margin) & (t > 0))
            total = total + part * (silent + active).sum() / len(s)
        return self.weight * total
