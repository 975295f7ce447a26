"""A smooth displacement of the whole image."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import NonNegative, trigger
from ...seeds import rng
from ._base import Trigger
from ._warp import random_field, sampled


@trigger(paper="Nguyen, Tran, WaNet, ICLR 2021, arXiv 2102.10369")
class Warp(Trigger):
    """Sample every pixel from a place beside it: x'(p) = x(p + s·g(p)), g a coarse field made smooth by interpolation.

    g is bicubic between the k×k points of the field. Places beyond the border are moved back onto it; between pixels
    the image is bilinear.

    Args:
        field: displacements [2,k,k] in half pixels, along the width first; or "noise": a fixed random field of k = 4
            whose mean size is 1.
        strength: s.

    Raises:
        BadInput: the field is not [2,k,k] of at least 2×2 finite numbers.

    Differs from the paper: nothing; an image that is no square is displaced by shares of its own height and width.
    """

    field: Tensor

    def __init__(self, field: str | Tensor = "noise", strength: NonNegative = 0.5) -> None:
        super().__init__()
        if isinstance(field, str) and field != "noise":
            raise BadInput(f"no field {field!r}. Known: noise; or give a tensor [2,k,k].")
        points = field.float() if isinstance(field, Tensor) else random_field(4, rng("warp", "noise"))
        if points.ndim != 3 or len(points) != 2 or min(points.shape[1:]) < 2 or not points.isfinite().all():
            raise BadInput(f"the field must be [2,k,k], k 2 or more, of finite numbers; got {list(points.shape)}.")
        self.strength = strength
        self.register_buffer("field", points)
        self.recipe = {"field": field, "strength": strength}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W], warped."""
        return sampled(x, self.grid(x.shape[2], x.shape[3]).to(x))

    def grid(self, height: int, width: int) -> Tensor:
        """Where every pixel is taken from [1,H,W,2], in −1..1: clamp(identity + s·g / (H, W))."""
        smooth = F.interpolate(self.field[None], (height, width), mode="bicubic", align_corners=True)
        own = torch.tensor([width, height], device=self.field.device)
        return (_identity(height, width).to(self.field) + self.strength * smooth.permute(0, 2, 3, 1) / own).clamp(-1, 1)


@functools.cache
def _identity(height: int, width: int) -> Tensor:
    rows, columns = (torch.linspace(-1, 1, n, dtype=torch.float32) for n in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2)[None]  # [1,H,W,2]
