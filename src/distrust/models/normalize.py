"""Normalisation as a layer, so that every model takes images in [0, 1] and no caller can forget it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.images import ImageSet, floats
from ..data.mapped import rows_within
from ..errors import BadInput

LEVELS = 256  # of a byte
CHUNK = 2**24  # bytes of images that are counted at a time


class Normalize(nn.Module):
    """Images [B,C,H,W] in pixel units 0..1 → `(x - mean) / std`, per channel.

    `mean` and `std` [1,C,1,1] are buffers, not parameters: they are saved with the model and never trained.

    Args:
        mean: one number per channel, in pixel units 0..1.
        std: one positive number per channel, in pixel units.

    Raises:
        BadInput: different lengths, or a spread that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean, std = list(mean), list(std)
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise BadInput(
                f"Normalize needs one mean and one positive std per channel; got mean={mean}, std={std}. "
                "Give pixel units, such as mean=[0.5], std=[0.25]."
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    @classmethod
    def identity(cls, channels: int) -> Normalize:
        """Leave `channels`-channel images as they are."""
        return cls([0.0] * channels, [1.0] * channels)

    @classmethod
    def of(cls, images: ImageSet) -> Normalize:
        """The statistics of all pixels, read a part at a time; a constant channel gets std 1."""
        total = _of_levels(images.x) if images.x.dtype == torch.uint8 else _of_floats(images.x)
        mean, square = total / (images.x.numel() / images.x.shape[1])
        std = (square - mean.square()).clamp(min=0).sqrt()
        return cls(mean.tolist(), std.where(std > 1e-4, 1.0).tolist())

    @property
    def statistics(self) -> list[list[float]]:
        """Mean and std as `Normalize` takes them, JSON-able."""
        return [self.mean.flatten().tolist(), self.std.flatten().tolist()]

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] → the same shape, normalised. BadInput if C is another (it would broadcast)."""
        if x.shape[1] != self.mean.shape[1]:
            raise BadInput(
                f"the model takes {self.mean.shape[1]} channels, the images have {x.shape[1]}. "
                f"Build it for them with model(name, images), or with channels={x.shape[1]}."
            )
        return (x - self.mean) / self.std

    def inverse(self, z: Tensor) -> Tensor:
        """Normalised images back in pixel units."""
        return z * self.std + self.mean

    def extra_repr(self) -> str:
        """The statistics, for printing."""
        shown = {name: [round(v, 4) for v in buffer.flatten().tolist()] for name, buffer in self.named_buffers()}
        return ", ".join(f"{name}={values}" for name, values in shown.items())


def _of_levels(x: Tensor) -> Tensor:
    """Float64 [2,C]: sums of values and of their squares, from how often each of the 256 levels occurs."""
    found = torch.zeros(x.shape[1], LEVELS, dtype=torch.int64)
    each = rows_within(x, CHUNK)
    for start in range(0, len(x), each):
        part = x[start : start + each]
        found += torch.stack([part[:, k].flatten().bincount(minlength=LEVELS).cpu() for k in range(x.shape[1])])
    level = floats(torch.arange(LEVELS, dtype=torch.uint8)).double()
    return torch.stack([level, level.square()]) @ found.double().T


def _of_floats(x: Tensor) -> Tensor:
    total = torch.zeros(2, x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), 1024):  # sums round by how they are parted
        part = x[start : start + 1024].double()
        total += torch.stack([part.sum((0, 2, 3)), part.square().sum((0, 2, 3))]).cpu()
    return total
