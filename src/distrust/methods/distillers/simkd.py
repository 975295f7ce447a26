"""SimKD: the student learns the teacher's embedding and takes over the teacher's classifier."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import NonNegative, distiller
from ...models import Taps
from ...models.taps import INPUT
from ._connect import bound


@distiller(
    paper="Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, arXiv 2203.14001",
    label_weight=0.0, auto="embedding",
)  # fmt: skip
class SimKD(nn.Module):
    """Mean squared difference of the projected student embedding and the teacher's, times a weight.

    The projector is a linear layer and BatchNorm, trained along. Afterwards projector and teacher's classifier, both
    linear, become the student's own last layer, which nothing trains before: the student keeps its architecture.

    Args:
        weight: of this term; without labels the only one.

    Raises:
        BadInput: the tapped layer is not what enters the last linear layer of each model; student and teacher answer
            with different numbers of classes; or the student's last layer has no bias.

    Differs from the paper: there the projector is three convolutions with BatchNorm and ReLU on the feature map before
    the pooling, compared position by position, and stays in the student; a linear one can be folded away. That no
    labels and no softened outputs are added, and the weight 1, are the released code's.
    """

    def __init__(self, *, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.connectors: nn.ModuleList | None = None
        self.head = ""  # path of the student's last linear layer

    def bind(self, student: Taps, teacher: Taps, model: nn.Module) -> None:
        """Build the projector and keep a copy of the teacher's classifier."""
        (self.head, ours), (head, theirs) = embedding(student), embedding(teacher)
        classes, taught = student.logits.shape[1], teacher.logits.shape[1]
        if classes != taught:
            raise BadInput(
                f"SimKD hands the teacher's classifier of {taught} classes to the student, which has {classes}. "
                "Take a student with as many."
            )
        last, width = last_linear(model, head, taught), theirs.shape[1]
        self.classifier = nn.Linear(width, taught).requires_grad_(False)
        self.classifier.weight.copy_(last.weight.detach())
        self.classifier.bias.copy_(torch.zeros(taught) if last.bias is None else last.bias.detach())
        projector = nn.Sequential(nn.Linear(ours.shape[1], width, bias=False), nn.BatchNorm1d(width))
        self.connectors = nn.ModuleList([projector])

    def forward(self, student: Taps, teacher: Taps, y: Tensor) -> Tensor:
        """The loss; embeddings [B,D]."""
        projector = bound(self.connectors, 1)[0]
        return self.weight * F.mse_loss(projector(embedding(student)[1]), embedding(teacher)[1])

    @torch.no_grad()
    def finish(self, student: nn.Module) -> None:
        """Fold the projector (as in eval mode) and the teacher's classifier into the student's last layer."""
        projector = bound(self.connectors, 1)[0]
        whole = copy.deepcopy(nn.Sequential(projector, self.classifier)).double().eval()
        last = last_linear(student, self.head, self.classifier.out_features)
        if last.bias is None:
            raise BadInput(
                f"layer {self.head!r} of the student has no bias, which SimKD needs to fold its projector into it. "
                "Build it with bias=True."
            )
        units = torch.eye(last.in_features).to(last.weight).double()
        at_zero = whole(torch.zeros_like(units[:1]))
        last.weight.copy_((whole(units) - at_zero).T)
        last.bias.copy_(at_zero[0])


def embedding(read: Taps) -> tuple[str, Tensor]:
    """The path of the layer that the embedding enters, and the embedding [B,D]."""
    path, feature = next(iter(read.features.items()), ("", read.logits))
    if len(read.features) != 1 or not path.endswith(INPUT) or feature.ndim != 2:
        raise BadInput(
            "SimKD needs one vector per image, that which enters the last linear layer, but the layers tapped are: "
            f"{', '.join(f'{name} {list(f.shape)}' for name, f in read.features.items()) or 'none'}. "
            "Type layers='embedding'."
        )
    return path.removesuffix(INPUT), feature


def last_linear(model: nn.Module, path: str, classes: int) -> nn.Linear:
    """The linear layer at `path`, whose outputs are the logits."""
    layer = model.get_submodule(path)
    if not isinstance(layer, nn.Linear) or layer.out_features != classes:
        raise BadInput(
            f"layer {path!r} is not the linear layer that gives the {classes} logits but a {type(layer).__name__}. "
            "Type layers='embedding'."
        )
    return layer
