"""A pattern over the whole image, shown through a mask: the trigger that attacks optimise."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...errors import BadInput
from ...marks import Rate, trigger
from ...seeds import rng
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

    pixels: Tensor | None
    mask: Tensor

    def __init__(self, pattern: str | Tensor = "noise", mask: Rate | Tensor = 0.2) -> None:
        super().__init__()
        if isinstance(pattern, str) and pattern != "noise":
            raise BadInput(f"no pattern {pattern!r}. Known: noise; or give a tensor [C,H,W].")
        pixels = pattern.float() if isinstance(pattern, Tensor) else None
        cover = mask.float() if isinstance(mask, Tensor) else torch.full((1, 1, 1), float(mask))
        for name, part in (("pattern", pixels), ("mask", cover)):
            if part is not None and (part.ndim != 3 or not (part.min() >= 0 and part.max() <= 1)):
                raise BadInput(
                    f"the {name} must be [C,H,W] in 0..1; got {list(part.shape)} in {part.min():.2f}..{part.max():.2f}."
                )
        self.register_buffer("pixels", pixels)  # [C,H,W], or None: noise of the images' shape
        self.register_buffer("mask", cover)  # [1 or C,H,W] or [1,1,1]
        self.recipe = {"pattern": pattern, "mask": mask}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the pattern showing through."""
        pixels = _noise(x.shape[1:]) if self.pixels is None else self.pixels
        for part in (pixels, self.mask):
            if part.shape[0] not in (1, x.shape[1]) or part.shape[1:] not in ((1, 1), x.shape[2:]):
                raise BadInput(
                    f"a pattern of {list(part.shape)} does not fit on images of {list(x.shape[1:])}. Give one of "
                    f"their size, or let a file's be resized: 'FILE[size={x.shape[2]}]'."
                )
        mask = self.mask.to(x)
        return (1 - mask) * x + mask * pixels.to(x)


@functools.cache
def _noise(shape: torch.Size) -> Tensor:
    return torch.rand(shape, generator=rng("masked", "noise"))
