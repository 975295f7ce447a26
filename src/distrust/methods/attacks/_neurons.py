"""Which neurons CheatKD poisons, and the activation it wants of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import BadInput

Delta = Literal["mean", "max", "min", "(max+min)/2", "(max+min)/4"]


def strongest(place: str, feature: Tensor, neurons: int) -> Tensor:
    """The channels with the largest mean J over batch and positions; of equals the lowest number."""
    if feature.ndim != 4:
        raise BadInput(f"layer {place!r} is no feature map [B,C,H,W] but {list(feature.shape)}. Name an earlier one.")
    if neurons > feature.shape[1]:
        raise BadInput(f"neurons={neurons}, but layer {place!r} has {feature.shape[1]} channels. Give fewer.")
    means = feature.detach().mean((0, 2, 3))
    return means.argsort(descending=True, stable=True)[:neurons]


def delta_of(feature: Tensor, chosen: Tensor, kind: Delta) -> Tensor:
    """δ, a constant to the optimiser."""
    feature = feature.detach()
    if kind == "mean":
        return feature.mean((0, 2, 3)).max()
    own = feature[:, chosen]
    return {
        "max": own.max(), "min": own.min(),
        "(max+min)/2": (own.max() + own.min()) / 2, "(max+min)/4": (own.max() + own.min()) / 4,
    }[kind]  # fmt: skip


def units(model: nn.Module, shape: tuple[int, ...], blend_in: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C,1,1] by which the pattern becomes pixels; 0 and 1 where it is pixels."""
    if blend_in == "pixels":
        return torch.zeros(shape[0], 1, 1), torch.ones(shape[0], 1, 1)
    layer = getattr(model, "normalize", None)
    if layer is None:
        raise BadInput("blend_in='normalised' needs a model with a `normalize` layer. Use blend_in='pixels'.")
    return layer.mean[0].cpu(), layer.std[0].cpu()
