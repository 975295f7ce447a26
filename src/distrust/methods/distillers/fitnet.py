"""FitNet: one inner feature of the student, through a regressor, becomes the teacher's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import Count, NonNegative, distiller
from ...models import Taps
from ._connect import bound, pairs


@distiller(paper="Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550", label_weight=1.0)
class FitNet(nn.Module):
    """Mean squared difference of the regressed student feature and the teacher's hint, times a weight.

    The mean is over batch, channels and positions. The regressor is a convolution, BatchNorm and ReLU, trained along.

    Args:
        hint: which tapped layer is the hint, counted from 1 (of the group ends, 2 is the second group's).
        weight: of this term.

    Raises:
        BadInput: there are fewer tapped layers than `hint`, a layer is no feature map, or the student's is smaller
            than the teacher's other than by half.

    Differs from the paper: hint and labels are learnt together, as in RepDistiller, whose regressor and weight these
    are. Two stages, the hint first, are `distill(…, warmup=0.1)`; the labels then follow alone, without the teacher.
    """

    def __init__(self, *, hint: Count = 2, weight: NonNegative = 100.0) -> None:
        super().__init__()
        self.hint, self.weight = hint, weight
        self.connectors: nn.ModuleList | None = None

    def bind(self, student: Taps, teacher: Taps, model: nn.Module) -> None:
        """Build the regressor for the sizes of the two features."""
        self.connectors = nn.ModuleList([regressor(*self._pair(student, teacher))])

    def forward(self, student: Taps, teacher: Taps, y: Tensor) -> Tensor:
        """The loss; features [B,C,H,W]."""
        ours, theirs = self._pair(student, teacher)
        connectors = bound(self.connectors, 1)
        return self.weight * F.mse_loss(connectors[0](ours), theirs)

    def _pair(self, student: Taps, teacher: Taps) -> tuple[Tensor, Tensor]:
        found = pairs(student, teacher)
        if self.hint > len(found):
            raise BadInput(
                f"hint={self.hint}, but {len(found)} layers are tapped ({', '.join(student.features)}); "
                "set hint to one of them, counted from 1."
            )
        return found[self.hint - 1][1:]


def regressor(ours: Tensor, theirs: Tensor) -> nn.Sequential:
    """A convolution from the student's channels and size to the teacher's, then BatchNorm and ReLU.

    3×3 with stride 2 if the student's map is twice as large, transposed 4×4 with stride 2 if it is half as large;
    otherwise as large as the difference in size wants it, without padding: 1×1 if the sizes agree.
    """
    (inputs, *size), (outputs, *wanted) = ours.shape[1:], theirs.shape[1:]
    convolution: nn.Module
    if size == [2 * side for side in wanted]:
        convolution = nn.Conv2d(inputs, outputs, 3, 2, 1)
    elif [2 * side for side in size] == wanted:
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    elif all(a >= b for a, b in zip(size, wanted, strict=True)):
        convolution = nn.Conv2d(inputs, outputs, (1 + size[0] - wanted[0], 1 + size[1] - wanted[1]))
    else:
        raise BadInput(
            f"FitNet has no regressor from the student's {size[0]}×{size[1]} feature to the teacher's "
            f"{wanted[0]}×{wanted[1]} hint. Name layers of like size: layers=([student's], [teacher's])."
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
