"""A pattern over the whole image, shown through a mask: the trigger that attacks optimise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BadInput
from ..methods import Rate, trigger
from ..seeds import rng
from ._base import Trigger


@trigger(paper="Wang et al., Neural Cleanse, IEEE S&P 2019, equation 2; CheatKD, equation 1")
class Masked(Trigger):
    """Blend a pattern through a mask: x' = (1 − M)⊙x + M⊙P.

    Args:
        pattern: P as a tensor [C,H,W] in 0..1, or "noise", a fixed random picture.
        mask: M as a tensor [1 or C,H,W] in 0..1, or one number for every pixel.

    Raises:
        BadInput: pattern or mask leave 0..1, or do not fit each other or the images.

    Differs from the paper: nothing; attacks that optimise P and M end in this trigger.
    """

    pixels: Tensor
    mask: Tensor

    def __init__(self, pattern: str | Tensor = "noise", mask: Rate | Tensor = 0.2) -> None:
        super().__init__()
        if isinstance(pattern, str) and pattern != "noise":
            raise BadInput(f"no pattern {pattern!r}. Known: noise; or give a tensor [C,H,W].")
        pixels = pattern if isinstance(pattern, Tensor) else torch.rand(3, 32, 32, generator=rng("masked", "noise"))
        cover = mask if isinstance(mask, Tensor) else torch.full((1, *pixels.shape[1:]), float(mask))
        for name, part in (("pattern", pixels), ("mask", cover)):
            if part.ndim != 3 or part.shape[1:] != pixels.shape[1:] or part.min() < 0 or part.max() > 1:
                raise BadInput(
                    f"the {name} must be [C,{pixels.shape[1]},{pixels.shape[2]}] in 0..1; got {list(part.shape)} in "
                    f"{part.min():.2f}..{part.max():.2f}."
                )
        self.register_buffer("pixels", pixels.float())  # [C,H,W]
        self.register_buffer("mask", cover.float())  # [1 or C,H,W]
        self.recipe = {"pattern": pattern, "mask": mask}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the pattern showing through."""
        if x.shape[2:] != self.pixels.shape[1:] or self.pixels.shape[0] not in (1, x.shape[1]):
            raise BadInput(f"a pattern of {list(self.pixels.shape)} does not fit on images of {list(x.shape[1:])}.")
        mask = self.mask.to(x)
        return (1 - mask) * x + mask * self.pixels.to(x)
