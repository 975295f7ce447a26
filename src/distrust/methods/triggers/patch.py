"""A small pattern pasted into the lower right corner."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...errors import BadInput
from ...marks import Count, Pixels, trigger
from ...pictures import open_picture
from ._base import Trigger

# Rows -3..-1 by columns -3..-1 of the image, as in the released code of NAD (github.com/bboylyg/NAD).
GRID = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
NAMES = ("grid", "white", "black", "checker")


@trigger(paper="Gu et al., BadNets, arXiv 1708.06733")
class Patch(Trigger):
    """Paste a pattern into the lower right corner: x' = (1 − m)·x + m·pattern.

    Args:
        pattern: "grid" (the 3×3 grid of NAD), "white", "black", "checker", a picture file, or a tensor [C,h,w] or
            [h,w]: uint8, or float in 0..1.
        size: side in pixels of a named pattern; of "grid" a multiple of 3 that enlarges it.
        inset: pixels between the patch and the lower and right border.

    Raises:
        BadInput: a pattern that does not exist or leaves 0..1, or a patch that leaves nothing of the images.

    Differs from the paper: BadNets draws several patterns; here any pattern is given as pixels.
    """

    def __init__(self, pattern: str | Tensor = "grid", size: Count = 3, inset: Pixels = 0) -> None:
        super().__init__()
        if isinstance(pattern, str) and pattern not in NAMES and Path(pattern).is_file():
            pattern = open_picture(pattern)
        pixels = pattern if isinstance(pattern, Tensor) else _named(pattern, size)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        pixels = pixels if pixels.ndim == 3 else pixels[None]
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise BadInput(f"the pattern must lie in 0..1; got {pixels.min():.2f}..{pixels.max():.2f}.")
        self.inset = inset
        self.register_buffer("pixels", pixels)  # [C or 1,h,w]
        self.recipe = {"pattern": pixels if isinstance(pattern, Tensor) else pattern, "size": size, "inset": inset}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the patch on them."""
        height, width = self.pixels.shape[1:]
        bottom, right = x.shape[2] - self.inset, x.shape[3] - self.inset
        if bottom < height or right < width:
            raise BadInput(
                f"a patch of {height}×{width} with inset {self.inset} does not fit on images of "
                f"{x.shape[2]}×{x.shape[3]}; make it smaller."
            )
        if isinstance(self.recipe["pattern"], Tensor) and (height, width) == tuple(x.shape[2:]):
            raise BadInput(
                f"a patch of {height}×{width} hides the whole image. Blend it: blend:FILE; or, if its black is clear, "
                "type 'FILE[clear=black]'."
            )
        x = x.clone()
        x[:, :, bottom - height : bottom, right - width : right] = self.pixels.to(x)
        return x


def _named(pattern: str, size: int) -> Tensor:
    if pattern == "grid":
        if size % 3:
            raise BadInput(f"the grid is 3×3; its size must be a multiple of 3, not {size}.")
        return GRID.repeat_interleave(size // 3, 0).repeat_interleave(size // 3, 1)
    if pattern == "checker":
        return ((torch.arange(size)[:, None] + torch.arange(size)) % 2 * 255).to(torch.uint8)
    if pattern in ("white", "black"):
        return torch.full((size, size), 255 if pattern == "white" else 0, dtype=torch.uint8)
    raise BadInput(f"no pattern {pattern!r}. Known: {', '.join(NAMES)}; or give a picture file, or a tensor.")
