"""Pruning by weights: the layers that make a channel, and how they fall silent; the architecture stays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...models import resolve, runs_of

NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def makers(model: nn.Module, place: str, shape: Sequence[int]) -> list[nn.Module]:
    """The layers whose outputs are the channels at the end of the last group of layers, or add up to them.

    Where `place` is a norm, as behind a pre-activation network's last sum, it alone decides. Else these are the layers
    of the group whose output no other module takes, as it is summed; in a chain without sums, the last layer.

    Args:
        model: any module that takes images.
        place: what `resolve(model, "pre-relu")` says last.
        shape: (C,H,W) of the images.
    """
    modules = dict(model.named_modules())
    if isinstance(modules.get(place), NORMS):
        return [modules[place]]
    end, calls = resolve(model, "groups", shape)[-1], runs_of(model, shape)
    at = max(i for i, call in enumerate(calls) if call.path == end)
    width = calls[at].output.shape[1]
    found = [c for c in calls[: at + 1] if isinstance(c.module, (nn.Conv2d, *NORMS)) and c.output.shape[1] == width]
    inside = [call for call in found if call.path.startswith(f"{end}.")] or found
    summed = [call.module for call in inside if not any(other.inputs is call.output for other in calls)]
    return summed or [inside[-1].module]


def silence(layer: nn.Module, channels: Tensor) -> None:
    """Set weight and bias of output channels to 0, in place; channels are numbers or a mask."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[channels] = 0
