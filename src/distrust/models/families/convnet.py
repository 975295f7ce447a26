"""The ConvNet of dataset condensation. Gidaris & Komodakis, arXiv 1804.09458; Zhao, arXiv 2006.05929."""

from __future__ import annotations

from torch import nn

from ...errors import BadInput
from ._parts import Given, chain


def convnet(given: Given, depth: int, width: int = 128) -> nn.Module:
    """Depth × (convolution, per-image norm, ReLU, mean pool), then a linear layer made for the images' size.

    Initialised as PyTorch does: condensation draws its networks from that distribution.

    Args:
        given: the images.
        depth: blocks; each halves the image.
        width: channels of every block.

    Raises:
        BadInput: nothing of the image is left after so many halvings.
    """
    height, side = given.size
    deepest = min(given.size).bit_length() - 1
    if depth > deepest:
        raise BadInput(
            f"convnet{depth} halves the image {depth} times, but {height}×{side} pixels can be halved "
            f"{deepest} times. Take convnet{min(deepest, 3)}, or larger images."
        )
    blocks: list[nn.Module] = []
    for i in range(depth):
        inputs, padding = (width, 1) if i else (given.channels, 1 + given.grey)
        norm = nn.GroupNorm(width, width)  # one channel a group: instance norm
        blocks += [nn.Conv2d(inputs, width, 3, padding=padding), norm, nn.ReLU(), nn.AvgPool2d(2)]
    left = [(pixels + 2 * given.grey) >> depth for pixels in given.size]
    return chain(
        normalize=given.normalize,
        features=nn.Sequential(*blocks),
        flatten=nn.Flatten(),
        classifier=nn.Linear(width * left[0] * left[1], given.classes),
    )
