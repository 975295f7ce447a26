"""What networks are made of, and what they are made for."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn

from ...errors import BadInput


class Given(NamedTuple):
    """What a network is built for."""

    normalize: nn.Module  # the first layer, images in 0..1 → normalised
    classes: int  # K, the number of logits
    channels: int  # of the images
    size: tuple[int, int]  # height and width in pixels

    @property
    def grey(self) -> int:
        """By how much the networks of dataset condensation pad: grey images of 28 pixels become 32."""
        return 2 if self.channels == 1 and self.size == (28, 28) else 0

    def at_least(self, side: int, name: str, instead: str) -> None:
        """BadInput if the images have fewer than `side` pixels a side."""
        height, width = self.size
        if min(self.size) < side:
            raise BadInput(f"{name} needs {side} pixels a side; these are {height}×{width}. Take {instead}.")


class Mean(nn.Module):
    """Features [B,C,H,W] → their mean over the image [B,C]."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.mean((2, 3))


def chain(**parts: nn.Module) -> nn.Sequential:
    """Parts by name, one after the other: images [B,C,H,W] in 0..1 → logits [B,K]."""
    return nn.Sequential(OrderedDict(parts))


def conv(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the image's size but for its stride, without bias: a norm follows."""
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)


def he_init(model: nn.Module) -> nn.Module:
    """Convolutions ~ N(0, 2 / fan-out) (He et al., arXiv 1502.01852), norms 1 and 0, every bias 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def blocks_of(depth: int, step: int, offset: int, rule: str, take: str) -> int:
    """The n ≥ 1 of a depth that is step·n + offset.

    Args:
        depth: layers that were asked for.
        step: layers that one more block in every group adds.
        offset: the other layers.
        rule: whose depth must be what, for the message.
        take: the nearest names that fit, with a place for each of two depths.

    Raises:
        BadInput: there is no such n.
    """
    n, rest = divmod(depth - offset, step)
    if n < 1 or rest:
        below = step * max(n, 1) + offset
        raise BadInput(f"{rule}, which {depth} is not. Take {take.format(below, below + step)}.")
    return n
