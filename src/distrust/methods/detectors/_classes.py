"""What the detectors of classifiers share: classes that are searched together, as many as memory holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...data import ImageSet
from ...models import room

TOGETHER = 512  # images in a pass, at most: more are no faster, and on a processor slower by half


def groups(suspect: nn.Module, clean: ImageSet, images: int) -> tuple[tuple[Tensor, ...], int]:
    """All classes, in groups that see so many images each at once; and how many images go through at once."""
    most = room(suspect, clean.x.shape[1:])
    return torch.arange(len(clean.classes)).split(max(min(most, TOGETHER) // images, 1)), most
