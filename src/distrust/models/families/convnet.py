"""The ConvNet of dataset condensation. Gidaris & Komodakis, arXiv 1804.09458; Zhao, arXiv 2006.05929."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import BadInput


class ConvNet(nn.Module):
    """`features`: depth × (convolution, per-image norm, ReLU, mean pool), then a linear `classifier`."""

    def __init__(
        self, depth: int, width: int, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.normalize = normalize
        # The published network pads 28-pixel grey images to 32 in its first convolution.
        height, side, padding = (32, 32, 3) if channels == 1 and size == (28, 28) else (*size, 1)
        blocks: list[nn.Module] = []
        for i in range(depth):
            blocks += [
                nn.Conv2d(width if i else channels, width, 3, padding=1 if i else padding),
                nn.GroupNorm(width, width),  # one channel a group: instance norm
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * (height >> depth) * (side >> depth), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        return self.classifier(self.features(self.normalize(x)).flatten(1))


def convnet(
    depth: int,
    width: int = 128,
    *,
    normalize: nn.Module,
    classes: int,
    channels: int,
    size: tuple[int, int],
) -> nn.Module:
    """ConvNet-depth, initialised as PyTorch does: condensation draws its networks from that distribution.

    Args:
        depth: blocks; each halves the image.
        width: channels of every block.
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; the linear layer is made for them.

    Raises:
        BadInput: nothing of the image is left after so many halvings.
    """
    deepest = min(size).bit_length() - 1
    if depth > deepest:
        raise BadInput(
            f"convnet{depth} halves the image {depth} times, but {size[0]}×{size[1]} pixels can be halved "
            f"{deepest} times. Take convnet{min(deepest, 3)}, or larger images."
        )
    return ConvNet(depth, width, normalize, classes, channels, size)
