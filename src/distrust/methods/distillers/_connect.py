"""Connectors between a student's and a teacher's features, which several distillers train along."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ...errors import BadInput
from ...models import Taps


def pairs(student: Taps, teacher: Taps) -> list[tuple[str, Tensor, Tensor]]:
    """(student's path, student's feature, teacher's feature) in the order tapped.

    Raises:
        BadInput: a feature is no map [B,C,H,W].
    """
    found = []
    for (path, ours), theirs in zip(student.features.items(), teacher.features.values(), strict=True):
        if ours.ndim != 4 or theirs.ndim != 4:
            shape = list(ours.shape if ours.ndim != 4 else theirs.shape)
            raise BadInput(f"layer {path!r} is no feature map [B,C,H,W] but {shape}. Tap an earlier layer.")
        found.append((path, ours, theirs))
    return found


def same_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both feature maps, the larger one average-pooled to the smaller one's height and width."""
    size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
    pool = nn.functional.adaptive_avg_pool2d
    return tuple(f if f.shape[2:] == size else pool(f, size) for f in (ours, theirs))  # type: ignore[return-value]


def connector(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
    """A 1×1 convolution ~ N(0, √(2 / outputs)) without bias, then BatchNorm, then `after`."""
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / outputs))
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *after)


def halving(n: int) -> Sequence[float]:
    """Weights 1/2^(n−1), …, 1/2, 1 of n layers from the first to the last."""
    return [0.5 ** (n - 1 - i) for i in range(n)]


def bound(connectors: nn.ModuleList | None, n: int) -> nn.ModuleList:
    """The connectors, or a word on how to get them.

    Raises:
        BadInput: `bind` was not called, or for another number of layers.
    """
    if connectors is None or len(connectors) != n:
        raise BadInput(
            "this distiller owns connectors that are built for two models. Let `distill` build them, or call "
            "bind(student taps, teacher taps, teacher) first."
        )
    return connectors
