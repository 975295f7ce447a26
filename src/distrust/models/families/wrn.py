"""Wide residual networks. Zagoruyko & Komodakis, arXiv 1605.07146."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import BadInput
from ._init import fitting, he_init


class Block(nn.Module):
    """Norm, ReLU, convolution, twice, beside a shortcut; where the width changes the first two serve both."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,outputs,H/stride,W/stride]."""
        active = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(self.relu2(self.bn2(self.conv1(active))))


class Group(nn.Module):
    """Blocks of one width; the first may halve the image."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(Block(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,outputs,H/stride,W/stride]."""
        return self.layer(x)


class WideResNet(nn.Module):
    """A stem, three groups of 16, 32 and 64 times `width` channels, a global mean and a linear layer."""

    def __init__(
        self, blocks: int, width: int, normalize: nn.Module, classes: int, channels: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.conv1 = nn.Conv2d(channels, 16, 3, stride, 1, bias=False)
        self.block1 = Group(blocks, 16, 16 * width, 1)
        self.block2 = Group(blocks, 16 * width, 32 * width, 2)
        self.block3 = Group(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(64 * width, classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        x = self.conv1(self.normalize(x))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(self.relu(self.bn1(x)).mean((2, 3)))


def wrn(
    depth: int,
    width: int,
    stride: int = 1,
    *,
    normalize: nn.Module,
    classes: int,
    channels: int,
    size: tuple[int, int],
) -> nn.Module:
    """WRN-depth-width, pre-activation, without dropout; parameter names are those of the public checkpoints.

    Args:
        depth: 6n + 4 convolutions: 10, 16, 22, 28, 34, 40, …
        width: channels as a multiple of 16, 32 and 64.
        stride: of the first convolution; 2 is not in the paper and takes about a quarter of the time.
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; any, because the last features are averaged over the image.

    Raises:
        BadInput: a depth that is not 6n + 4.
    """
    if depth < 10 or depth % 6 != 4:
        below, above = fitting(depth, 4)
        raise BadInput(
            f"wrn{depth}-{width}: a Wide ResNet's depth is 6n+4, which {depth} is not. "
            f"Take wrn{below}-{width} or wrn{above}-{width}."
        )
    return WideResNet((depth - 4) // 6, width, normalize, classes, channels, stride)
