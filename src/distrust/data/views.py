"""Views: the random crops and colours between which a self-supervised encoder sees no difference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from .images import floats

GREY = (0.299, 0.587, 0.114)
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
RATIO = math.log(4 / 3)


@dataclass(frozen=True)
class Views:
    """SimCLR's changes of a batch: every image its own crop, mirror image and colours. Chen et al., arXiv 2002.05709.

    All colour changes of an image are one matrix and one offset, so that a batch costs one product; that they come in
    one order (brightness, contrast, saturation, hue) and are clamped once is where this differs from the paper's code.

    Args:
        scale: least and greatest share of the image's area that a crop keeps.
        flip: mirror half of the images; not for digits or signs.
        brightness: factors are drawn from 1 ± this; likewise `contrast` and `saturation`.
        contrast: about the mean grey level.
        saturation: about each pixel's grey level.
        hue: turn by up to this share of the colour circle.
        jitter: share of the images whose colours change.
        grey: share of the images that lose their colour.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = True
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter: float = 0.8
    grey: float = 0.2

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """One view of every image [B,C,H,W], uint8 or float in 0..1 → float32 in 0..1."""
        u = torch.rand(len(x), 11, generator=rng).to(x.device)
        x = self._cropped(floats(x).float(), u[:, :5])
        return (self._coloured(x, u[:, 5:]) if x.shape[1] == 3 else self._shaded(x, u[:, 5:])).clamp(0, 1)

    def _cropped(self, x: Tensor, u: Tensor) -> Tensor:
        area = self.scale[0] + u[:, 0] * (self.scale[1] - self.scale[0])
        most = (-area.log()).clamp(max=RATIO)  # beyond which a crop of this area would not fit into the image
        ratio = torch.exp((2 * u[:, 1] - 1) * most)
        width, height = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
        mirror = torch.where(u[:, 4] < 0.5, -1.0, 1.0) if self.flip else 1.0
        zero = torch.zeros_like(area)
        across = torch.stack([width * mirror, zero, (2 * u[:, 2] - 1) * (1 - width)], 1)
        down = torch.stack([zero, height, (2 * u[:, 3] - 1) * (1 - height)], 1)
        grid = F.affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def _factors(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Brightness and contrast of every image, 1 where its colours stay."""
        on = (u[:, 0] < self.jitter).float()
        return 1 + on * self.brightness * (2 * u[:, 1] - 1), 1 + on * self.contrast * (2 * u[:, 2] - 1)

    def _shaded(self, x: Tensor, u: Tensor) -> Tensor:
        b, c = (v.view(-1, 1, 1, 1) for v in self._factors(u))
        return b * (c * x + (1 - c) * x.mean((1, 2, 3), keepdim=True))

    def _coloured(self, x: Tensor, u: Tensor) -> Tensor:
        b, c = self._factors(u)
        on = (u[:, 0] < self.jitter).float()
        s = 1 + on * self.saturation * (2 * u[:, 3] - 1)
        angle = on * 2 * math.pi * self.hue * (2 * u[:, 4] - 1)
        s = torch.where(u[:, 5] < self.grey, 0.0, s).view(-1, 1, 1)
        weights = x.new_tensor(GREY)
        level = (x.mean((2, 3)) * weights).sum(1)
        colour = s * torch.eye(3, device=x.device) + (1 - s) * weights.expand(3, 3)
        matrix = (b * c).view(-1, 1, 1) * (_turn(angle) @ colour)
        offset = ((1 - c) * b * level).view(-1, 1, 1)  # grey, which neither saturation nor hue moves
        return torch.baddbmm(offset, matrix, x.flatten(2)).view_as(x)


def _turn(angle: Tensor) -> Tensor:
    """[B,3,3]: turn the colour circle by `angle`, brightness and greys stay."""
    to = angle.new_tensor(YIQ)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = (one, zero, zero), (zero, cos, -sin), (zero, sin, cos)
    turn = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return torch.linalg.inv(to) @ turn @ to
