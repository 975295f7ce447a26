"""A pattern of its own on every image, in a place of its own, both drawn by networks."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...data import as_8_bit
from ...errors import BadInput
from ...marks import Count, trigger
from ...seeds import rng
from ._base import Trigger
from ._generator import Draughtsman, filled, pair, sharp


@trigger(paper="Nguyen, Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, arXiv 2010.08138")
class Generated(Trigger):
    """Blend what one network draws through the mask of another: x' = x + (P(x) − x)⊙M(x).

    Args:
        weights: of both networks, in eval mode, as a tensor [N], pattern first; or "noise": untrained ones.
        channels: of the images that the weights are for; untrained networks take any.
        width: channels of the networks' first convolution.

    Raises:
        BadInput: weights of other sizes, or images of other channels, or of less than 8 pixels a side.

    Differs from the paper: pattern and mask are rounded to 8 bits; sides that are no multiples of 8 come back as they
    were.
    """

    def __init__(self, weights: str | Tensor = "noise", channels: Count = 3, width: Count = 32) -> None:
        super().__init__()
        if isinstance(weights, str) and weights != "noise":
            raise BadInput(f"no weights {weights!r}. Known: noise; or give a tensor [N].")
        self.channels, self.width = channels, width
        self.networks: list[Draughtsman] = []  # in a list: no parameters of this module, which trains nothing
        if isinstance(weights, Tensor):
            self.networks = _still(pair(channels, width, rng("generated", "frame")))
            filled(self.networks, weights.float())
        self.recipe = {"weights": weights, "channels": channels, "width": width}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with a pattern each."""
        if min(x.shape[2:]) < 8 or (self.networks and x.shape[1] != self.channels):
            raise BadInput(
                f"patterns for images of {self.channels} channels and 8×8 or more do not fit on "
                f"{'×'.join(map(str, x.shape[1:]))}."
            )
        pattern, mask = (net.to(x.device) for net in self.networks or _untrained(x.shape[1], self.width))
        with torch.autocast(x.device.type, enabled=False):
            p, m = as_8_bit(pattern(x.float())), as_8_bit(sharp(mask(x.float())))  # the same alone as in a batch
        return (x + (p - x) * m).to(x.dtype)


def _still(networks: tuple[Draughtsman, Draughtsman]) -> list[Draughtsman]:
    return [net.eval().requires_grad_(False) for net in networks]


@functools.cache
def _untrained(channels: int, width: int) -> list[Draughtsman]:
    return _still(pair(channels, width, rng("generated", "noise")))
