"""Augment: flip, shifted crop and cutout of a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..marks import Pixels


@dataclass(frozen=True)
class Augment:
    """Random horizontal flip, shifted crop and cutout, each drawn per image for a whole batch at once.

    Args:
        flip: mirror half of the images; not for digits or signs.
        crop: pad by this many zero pixels, then crop back at a random place (0: no crop).
        cutout: side in pixels of one zeroed square per image (0: none). DeVries & Taylor, arXiv 1708.04552.
    """

    flip: bool = True
    crop: Pixels = 4
    cutout: Pixels = 0

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """Augment `x` [B,C,H,W], any dtype; random numbers come from `rng` alone."""
        n, _, height, width = x.shape
        rows = torch.arange(n, device=x.device)
        if self.crop:
            dy, dx = torch.randint(2 * self.crop + 1, (2, n), generator=rng).to(x.device)
            windows = F.pad(x, (self.crop,) * 4).unfold(2, height, 1).unfold(3, width, 1)
            x = windows[rows, :, dy, dx]  # [B,C,H,W]: every image takes its own window
        if self.flip:
            mirrored = (torch.rand(n, generator=rng) < 0.5).to(x.device)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        if self.cutout:
            top = torch.randint(height, (n, 1, 1), generator=rng).to(x.device)
            left = torch.randint(width, (n, 1, 1), generator=rng).to(x.device)
            dy = torch.arange(height, device=x.device)[None, :, None] - top + self.cutout // 2
            dx = torch.arange(width, device=x.device)[None, None, :] - left + self.cutout // 2
            hole = (dy >= 0) & (dy < self.cutout) & (dx >= 0) & (dx < self.cutout)  # [B,H,W]
            x = x.masked_fill(hole[:, None], 0)
        return x


PLAIN = Augment(flip=False, crop=0)
Change = Callable[[Tensor, Generator], Tensor]  # an Augment, or what else changes a batch of images
