"""The network that draws a pattern, or a mask, for an image; what a trigger and the attack that trains it share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...errors import BadInput
from ...seeds import seeded


class Draughtsman(nn.Module):
    """Images [B,C,H,W] → [B,out,H,W] in 0..1: three times two convolutions and halved, one, and the same way back.

    Every convolution is 3×3, with BatchNorm of momentum 0.05 and ReLU, the last without ReLU; then (1 + tanh) / 2.

    Args:
        channels: of the images.
        out: of what is drawn.
        width: channels of the first convolution; they double twice.
        rng: decides the start.
    """

    def __init__(self, channels: int, out: int, width: int, rng: Generator) -> None:
        super().__init__()
        wide = [width, 2 * width, 4 * width]
        with seeded(rng):
            self.down = nn.ModuleList(_two(a, b, b) for a, b in zip([channels, *wide], wide, strict=False))
            self.middle = _one(wide[2], wide[2])
            self.up = nn.ModuleList(_two(a, a, b) for a, b in zip(wide[::-1], [*wide[1::-1], out], strict=True))
            self.up[-1][-1] = nn.Identity()  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        sizes = []
        for block in self.down:
            x = block(x)
            sizes.append(x.shape[2:])
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for block in self.up:
            x = block(F.interpolate(x, sizes.pop(), mode="bilinear"))
        return (1 + x.float().tanh()) / 2


def _one(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after, momentum=0.05), nn.ReLU())


def _two(before: int, between: int, after: int) -> nn.Sequential:
    return nn.Sequential(*_one(before, between), *_one(between, after))


def pair(channels: int, width: int, rng: Generator) -> tuple[Draughtsman, Draughtsman]:
    """Who draws the pattern, and who draws the mask."""
    return Draughtsman(channels, channels, width, rng), Draughtsman(channels, 1, width, rng)


def sharp(mask: Tensor) -> Tensor:
    """A mask in 0..1 pushed to its ends: (1 + tanh(20·(m − 0.5))) / 2."""
    return (1 + (20 * (mask - 0.5)).tanh()) / 2


def flat(networks: Iterable[nn.Module]) -> Tensor:
    """All of their weights and running statistics, [N] on the CPU."""
    tensors = [t for net in networks for t in net.state_dict().values() if t.is_floating_point()]
    return torch.cat([t.detach().float().cpu().flatten() for t in tensors])


def filled(networks: Iterable[nn.Module], weights: Tensor) -> None:
    """What `flat` gave, back into networks of the same sizes.

    Raises:
        BadInput: it is of other sizes.
    """
    tensors = [t for net in networks for t in net.state_dict().values() if t.is_floating_point()]
    wanted = sum(t.numel() for t in tensors)
    if weights.shape != (wanted,) or not weights.isfinite().all():
        raise BadInput(f"weights must be {wanted} finite numbers for this many channels; got {list(weights.shape)}.")
    for tensor, part in zip(tensors, weights.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
