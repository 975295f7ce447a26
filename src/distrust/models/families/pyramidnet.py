"""Pyramidal residual networks for small images. Han et al., arXiv 1610.02915."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import BadInput
from ._init import he_init

PUBLISHED = {110: 84, 200: 240}  # depth → alpha where a name gives none


class Block(nn.Module):
    """Norm, convolution, norm, ReLU, convolution, norm, beside a shortcut without parameters.

    Args:
        inputs: channels in.
        width: channels of the convolutions, and out.
        stride: of the first convolution and the shortcut.
    """

    expansion = 1  # channels out as a multiple of `width`

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,width,H/stride,W/stride]."""
        y = self.conv1(self.bn1(x))
        y = self.bn3(self.conv2(self.relu(self.bn2(y))))
        return _shortcut(x, y.shape[1], self.stride) + y


class Bottleneck(nn.Module):
    """As `Block`, with convolutions 1×1, 3×3 (which has the stride) and 1×1, the last four times as wide."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,4·width,H/stride,W/stride]."""
        y = self.conv1(self.bn1(x))
        y = self.conv2(self.relu(self.bn2(y)))
        y = self.bn4(self.conv3(self.relu(self.bn3(y))))
        return _shortcut(x, y.shape[1], self.stride) + y


class PyramidNet(nn.Module):
    """A stem of 16 channels, three layers whose every block is wider, norm and ReLU, a mean, a linear layer."""

    def __init__(
        self,
        block: type[Block] | type[Bottleneck],
        blocks: int,
        alpha: int,
        normalize: nn.Module,
        classes: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [round(16 + alpha * k / (3 * blocks)) for k in range(1, 3 * blocks + 1)]
        after = [block.expansion * width for width in widths]
        chain = [
            block(inputs, width, 2 if k in (blocks, 2 * blocks) else 1)
            for k, (inputs, width) in enumerate(zip([16, *after], widths, strict=False))
        ]
        self.layer1 = nn.Sequential(*chain[:blocks])
        self.layer2 = nn.Sequential(*chain[blocks : 2 * blocks])
        self.layer3 = nn.Sequential(*chain[2 * blocks :])
        self.bn_final = nn.BatchNorm2d(after[-1])
        self.relu_final = nn.ReLU()
        self.fc = nn.Linear(after[-1], classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        x = self.bn1(self.conv1(self.normalize(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.relu_final(self.bn_final(x)).mean((2, 3)))


def pyramidnet(
    depth: int,
    alpha: int | None = None,
    *,
    normalize: nn.Module,
    classes: int,
    channels: int,
    size: tuple[int, int],
) -> nn.Module:
    """PyramidNet: the k-th of N blocks has 16 + alpha·k/N channels, with bottlenecks four times as many.

    As in the paper's tables, networks from depth 164 on have bottlenecks. Channels are rounded to the nearest,
    as in the authors' PyTorch code and in Overhaul's (arXiv 1904.01866), which counts 26.84 M parameters for
    pyramidnet200 and 3.91 M for pyramidnet110; the paper rounds down. Parameter names are that code's.

    Args:
        depth: layers; 6n + 2 below 164 (8, 14, …, 110), 9n + 2 from there on (164, 200, 236, 272).
        alpha: channels that the last block has more than the stem (default: 84 for depth 110, 240 for 200).
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; any, because the last features are averaged over the image.

    Raises:
        BadInput: a depth that does not fit, or one without a usual alpha and none given.
    """
    block, step = (Bottleneck, 9) if depth >= 164 else (Block, 6)
    if depth < 8 or depth % step != 2:
        below = max(depth - (depth - 2) % step, 8)
        raise BadInput(
            f"pyramidnet{depth}: a PyramidNet's depth is 6n+2, with bottlenecks (from 164 on) 9n+2, which "
            f"{depth} is not. Take depth {below} or {below + step}."
        )
    alpha = PUBLISHED.get(depth) if alpha is None else alpha
    if alpha is None:
        raise BadInput(
            f"pyramidnet{depth}: how many channels does it gain? Only {' and '.join(map(str, PUBLISHED))} have a "
            f"usual alpha. Take pyramidnet{depth}-a84."
        )
    return PyramidNet(block, (depth - 2) // step, alpha, normalize, classes, channels)


def _shortcut(x: Tensor, channels: int, stride: int) -> Tensor:
    """`x`, averaged over 2×2 pixels where the block halves the image, and zeros in the channels it adds."""
    if stride > 1:
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))
