"""Differentiable Siamese augmentation: what condensation matches through, and what its victims train with.

Written out, not taken from a library: those clamp colours to 0..1, and condensed images leave that range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..errors import BadInput
from .images import floats

SCALE, ROTATE, PAD, CUTOUT = 1.2, math.radians(15), 0.125, 0.5  # of the released code's strategy
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
NUMBERS = 3  # uniform numbers that the greediest operation takes


def _color(x: Tensor, u: Tensor) -> Tensor:
    """Brightness, then saturation about the grey image, then contrast about the mean."""
    b, s, c = (v.view(-1, 1, 1, 1) for v in u.unbind(1))
    x = x + (b - 0.5) * BRIGHTNESS
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (s * SATURATION) + grey
    level = x.mean((1, 2, 3), keepdim=True)
    return (x - level) * (c + CONTRAST) + level


def _crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by up to an eighth of the side; zeros come in."""
    n, _, height, width = x.shape
    reach = [int(side * PAD + 0.5) for side in (height, width)]
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    down, right = ((v * (2 * r + 1)).long() for v, r in zip(u.unbind(1)[:2], reach, strict=True))
    if len(u) == 1:
        return padded[:, :, int(down) : int(down) + height, int(right) : int(right) + width]
    rows = down[:, None] + torch.arange(height, device=x.device)  # [B,H]
    columns = right[:, None] + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """A square of half the side becomes 0; it may hang over the border."""
    lines = []
    for v, size in zip(u.unbind(1)[:2], x.shape[2:], strict=True):
        side = int(size * CUTOUT + 0.5)
        start = (v * (size + 1 - side % 2)).long() - side // 2
        at = torch.arange(size, device=x.device) - start[:, None]
        lines.append((at >= 0) & (at < side))
    hole = lines[0][:, None, :, None] & lines[1][:, None, None, :]  # [B or 1,1,H,W]
    return x.masked_fill(hole, 0)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    return torch.where(u[:, 0].view(-1, 1, 1, 1) < 0.5, x.flip(3), x)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    """Height and width each by 1/1.2 to 1.2."""
    factor = 1 / SCALE + u[:, :2] * (SCALE - 1 / SCALE)
    return _warp(x, torch.diag_embed(factor))


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    angle = (2 * u[:, 0] - 1) * ROTATE
    cos, sin = angle.cos(), angle.sin()
    return _warp(x, torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1))


def _warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear, zeros outside; `matrix` [B or 1,2,2]."""
    theta = F.pad(matrix, (0, 1)).expand(len(x), 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate,
}  # fmt: skip


@dataclass(frozen=True)
class Siamese:
    """One random change a batch, differentiable. Zhao & Bilen, ICML 2021, arXiv 2102.08259, and its released code.

    Changes are made on normalised images, where 0 is the mean colour: colours may leave 0..1.

    Args:
        mean: per channel, in pixel units.
        std: per channel, in pixel units.
        operations: of `OPERATIONS`; leave out "flip" for digits and signs.

    Raises:
        BadInput: an operation that there is not, or none.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    operations: tuple[str, ...] = tuple(OPERATIONS)

    def __post_init__(self) -> None:
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown or not self.operations:
            raise BadInput(f"Siamese has no operation {unknown or 'left'}. Known: {', '.join(OPERATIONS)}.")

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """Training: the batch [B,C,H,W] in pixel units gets one operation, every image its own numbers."""
        return self._apply(floats(x), self._drawn(rng), torch.rand(len(x), NUMBERS, generator=rng))

    def shared(self, rng: Generator) -> Callable[[Tensor], Tensor]:
        """Matching: one operation with one set of numbers, for real and synthetic images alike."""
        operation, numbers = self._drawn(rng), torch.rand(1, NUMBERS, generator=rng)
        return lambda x: self._apply(x, operation, numbers)

    def _drawn(self, rng: Generator) -> str:
        return self.operations[int(torch.randint(len(self.operations), (), generator=rng))]

    def _apply(self, x: Tensor, operation: str, numbers: Tensor) -> Tensor:
        mean, std = (x.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return OPERATIONS[operation]((x - mean) / std, numbers.to(x)) * std + mean
