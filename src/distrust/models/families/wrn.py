"""Wide residual networks. Zagoruyko & Komodakis, arXiv 1605.07146."""

from __future__ import annotations

from torch import Tensor, nn

from ._parts import Given, Mean, blocks_of, chain, conv, he_init


class Block(nn.Module):
    """Norm, ReLU, convolution, twice, beside a shortcut; where the width changes the first two serve both."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(outputs, outputs, 3)
        self.convShortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,outputs,H/stride,W/stride]."""
        active = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(self.relu2(self.bn2(self.conv1(active))))


def wrn(given: Given, depth: int, width: int, stride: int = 1) -> nn.Module:
    """WRN-depth-width, pre-activation, without dropout; parameter names are those of the public checkpoints.

    Args:
        given: images of any size, because the last features are averaged over the image.
        depth: 6n + 4 convolutions: 10, 16, 22, 28, 34, 40, …
        width: channels as a multiple of 16, 32 and 64.
        stride: of the first convolution; 2 is not in the paper and takes about a quarter of the time.

    Raises:
        BadInput: a depth that is not 6n + 4.
    """
    rule = f"wrn{depth}-{width}: a Wide ResNet's depth is 6n+4"
    blocks = blocks_of(depth, 6, 4, rule, f"wrn{{}}-{width} or wrn{{}}-{width}")

    def group(inputs: int, outputs: int, stride: int) -> nn.Module:
        rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]  # drawn first: a seed keeps its weights
        return chain(layer=nn.Sequential(Block(inputs, outputs, stride), *rest))

    return he_init(
        chain(
            normalize=given.normalize,
            conv1=conv(given.channels, 16, 3, stride),
            block1=group(16, 16 * width, 1),
            block2=group(16 * width, 32 * width, 2),
            block3=group(32 * width, 64 * width, 2),
            bn1=nn.BatchNorm2d(64 * width),
            relu=nn.ReLU(),
            mean=Mean(),
            fc=nn.Linear(64 * width, given.classes),
        )
    )
