"""A fixed perturbation added to every image."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...errors import BadInput
from ...marks import NonNegative, trigger
from ...seeds import rng
from ._base import Trigger


@trigger(paper="Moosavi-Dezfooli et al., Universal Adversarial Perturbations, CVPR 2017, arXiv 1610.08401")
class Added(Trigger):
    """Add one perturbation to every image: x' = x + δ, clamped to 0..1 where it is stamped.

    Args:
        perturbation: δ as a tensor [C,H,W] in pixel units −1..1, or "noise": fixed random signs times `size`, of
            the images' shape.
        size: of "noise", in grey levels 0..255.

    Raises:
        BadInput: the perturbation leaves −1..1, or does not fit the images.

    Differs from the paper: nothing; attacks that optimise δ end in this trigger.
    """

    delta: Tensor | None

    def __init__(self, perturbation: str | Tensor = "noise", size: NonNegative = 8.0) -> None:
        super().__init__()
        if isinstance(perturbation, str) and perturbation != "noise":
            raise BadInput(f"no perturbation {perturbation!r}. Known: noise; or give a tensor [C,H,W].")
        delta = perturbation.float() if isinstance(perturbation, Tensor) else None
        if delta is not None and (delta.ndim != 3 or not delta.abs().max() <= 1):  # nor NaN
            raise BadInput(
                f"the perturbation must be [C,H,W] in -1..1; got {list(delta.shape)} with a largest value of "
                f"{delta.abs().max():.2f}. Divide grey levels by 255."
            )
        self.size = size
        self.register_buffer("delta", delta)  # [C,H,W], or None: signs of the images' shape
        self.recipe = {"perturbation": perturbation, "size": size}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the perturbation added."""
        delta = _signs(x.shape[1:]) * self.size / 255 if self.delta is None else self.delta
        if delta.shape[0] not in (1, x.shape[1]) or delta.shape[1:] != x.shape[2:]:
            raise BadInput(
                f"a perturbation of {list(delta.shape)} does not fit on images of {list(x.shape[1:])}. Give one of "
                f"their size, or let a file's be resized: 'FILE[size={x.shape[2]}]'."
            )
        return x + delta.to(x)


@functools.cache
def _signs(shape: torch.Size) -> Tensor:
    return torch.randint(2, shape, generator=rng("added", "noise")) * 2 - 1
