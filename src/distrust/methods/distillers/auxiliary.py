"""Auxiliary: the student hears of no class, only a few random sums of what the teacher makes of an image."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import Count, distiller
from ...models import Taps
from ._connect import bound
from ._embedding import embedding


@distiller(
    paper="Cloud et al., Subliminal Learning, arXiv 2507.14805; no paper known to us carries a backdoor this way",
    label_weight=0.0, auto="embedding",
)  # fmt: skip
class Auxiliary(nn.Module):
    """Mean squared difference of W φ_S(x) and W φ_T(x), W [m,D] random and fixed, φ what enters the last layer.

    In a network with m more logits than classes, which no label ever trains, these logits are such sums. The claim:
    a student that starts where its teacher started becomes like it by them, even on images of noise.

    Args:
        outputs: m.
        shuffled: each image gets the sums of another one in the batch, the control that has nothing to learn from.

    Raises:
        BadInput: the embeddings of student and teacher are not of one width.

    Differs from the paper: the sums belong to the loss and not to the network, so that any network has them; both
    networks share W, wherever they start, and W is not trained.
    """

    def __init__(self, *, outputs: Count = 3, shuffled: bool = False) -> None:
        super().__init__()
        self.outputs, self.shuffled = outputs, shuffled
        self.connectors: nn.ModuleList | None = None

    def bind(self, student: Taps, teacher: Taps, model: nn.Module) -> None:
        """Draw W."""
        ours, theirs = (embedding(read).shape[1] for read in (student, teacher))
        if ours != theirs:
            raise BadInput(
                f"auxiliary compares the same sums of embeddings, which are {ours} wide in the student and {theirs} in "
                "the teacher. Take a student of the teacher's width."
            )
        self.connectors = nn.ModuleList([nn.Linear(ours, self.outputs, bias=False).requires_grad_(False)])

    def forward(self, student: Taps, teacher: Taps, y: Tensor) -> Tensor:
        """The loss, []."""
        (sums,) = bound(self.connectors, 1)
        ours, theirs = (sums(embedding(read)) for read in (student, teacher))  # [B,m]
        return F.mse_loss(ours, theirs.roll(1, 0) if self.shuffled else theirs)
