"""What the defences of a transfer set share: the teacher's answers, and a threshold that clean images set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...data import ImageSet
from ...measurement.predict import BATCH
from ...models import at_once, eval_mode


def answers(teacher: nn.Module, images: ImageSet, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Probabilities float32 [N,K] on the CPU, of the images or of what `change` makes of them."""
    device = next(teacher.parameters()).device
    found = []
    with eval_mode(teacher), torch.no_grad():
        for x, _ in images.batches(at_once(images.x.shape[1:], BATCH)):
            x = x if change is None else change(x)
            found.append(teacher(x.to(device)).float().softmax(1).cpu())
    return torch.cat(found)


def keep(transfer: ImageSet, scores: Tensor, clean: Tensor, lose: float) -> ImageSet:
    """The images whose score [N] is no higher than that of all but a share `lose` of the clean ones [M]."""
    return transfer[scores <= clean.double().quantile(1 - lose, interpolation="higher")]


def by_answer(teacher: nn.Module, transfer: ImageSet) -> list[Tensor]:
    """Rows int64 of the images that the teacher gives each class, classes without an image left out."""
    said = answers(teacher, transfer).argmax(1)
    groups = [(said == k).nonzero().flatten() for k in range(len(transfer.classes))]
    return [rows for rows in groups if len(rows)]
