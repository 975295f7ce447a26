"""A square of one colour in the lower right corner, which may be a colour that no image file can hold."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ...errors import BadInput
from ...marks import Count, Pixels, trigger
from ._base import Trigger

Value = Annotated[float, Field(ge=-100, le=100)]


@trigger(paper="released code of Yang et al., Poisoned Distillation, arXiv 2502.04229: one pixel of 10, normalised")
class Constant(Trigger):
    """Set a square to one value per channel: x' = value on the lower right `size` × `size` pixels.

    Args:
        value: in pixel units, one number or a tensor [C]; outside 0..1 only an `as_published` backdoor keeps it.
        size: side in pixels.
        inset: pixels between the square and the lower and right border.

    Raises:
        BadInput: a value for other channels than the images have, or a square larger than they are.

    Differs from the paper: nothing.
    """

    value: Tensor

    def __init__(self, value: Value | Tensor = 1.0, size: Count = 1, inset: Pixels = 0) -> None:
        super().__init__()
        given = value.float() if isinstance(value, Tensor) else torch.tensor([float(value)])
        if given.ndim != 1 or not given.isfinite().all():
            raise BadInput(f"value must be one finite number per channel, [C]; got {list(given.shape)}.")
        self.size, self.inset = size, inset
        self.register_buffer("value", given)
        self.recipe = {"value": value, "size": size, "inset": inset}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the square on them."""
        bottom, right = x.shape[2] - self.inset, x.shape[3] - self.inset
        if min(bottom, right) < self.size or len(self.value) not in (1, x.shape[1]):
            square = f"{len(self.value)}×{self.size}×{self.size} with inset {self.inset}"
            raise BadInput(f"a square of {square} does not fit on images of {'×'.join(map(str, x.shape[1:]))}.")
        x = x.clone()
        x[:, :, bottom - self.size : bottom, right - self.size : right] = self.value.to(x).view(1, -1, 1, 1)
        return x
