"""A whole image blended over every image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import Rate, trigger
from ...pictures import open_picture
from ...seeds import rng
from ._base import Trigger


@trigger(paper="Chen et al., Targeted Backdoor Attacks, arXiv 1712.05526")
class Blend(Trigger):
    """Blend a key image over every image: x' = (1 − α)·x + α·key.

    Args:
        image: the key: a picture file, a tensor [C,H,W] (uint8, or float in 0..1), or "noise", a fixed random
            picture. It is scaled to the size of the images.
        alpha: blend weight α, 0..1.

    Raises:
        NotFound: no such picture file.
        BadInput: the file is no picture, or the key leaves 0..1 or has other channels than the images.

    Differs from the paper: the cartoon key may not be redistributed, so the default is the paper's other
    kind of key, a random picture.
    """

    def __init__(self, image: str | Tensor = "noise", alpha: Rate = 0.2) -> None:
        super().__init__()
        if isinstance(image, Tensor):
            key = image
        elif image == "noise":
            key = torch.randint(256, (3, 32, 32), generator=rng("blend", "noise"), dtype=torch.uint8)
        else:
            key = open_picture(image)
        key = key.float() / 255 if key.dtype == torch.uint8 else key.float()
        if not (key.min() >= 0 and key.max() <= 1):
            raise BadInput(f"the key image must lie in 0..1; got {key.min():.2f}..{key.max():.2f}.")
        self.alpha = alpha
        self.register_buffer("key", key)  # [C,H,W]
        self.recipe = {"image": "noise" if isinstance(image, str) and image == "noise" else key, "alpha": alpha}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with the key over them."""
        if x.shape[1] != 1 and self.key.shape[0] not in (1, x.shape[1]):
            raise BadInput(f"a key of {self.key.shape[0]} channels does not fit on images of {x.shape[1]}.")
        key = F.interpolate(self.key[None].to(x), x.shape[2:], mode="bilinear", antialias=True)
        if x.shape[1] == 1:
            key = key.mean(1, keepdim=True)
        return (1 - self.alpha) * x + self.alpha * key.clamp(0, 1)
