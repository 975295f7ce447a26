"""Pyramidal residual networks for small images. Han et al., arXiv 1610.02915."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import BadInput
from ._parts import Given, Mean, blocks_of, chain, conv, he_init

PUBLISHED = {110: 84, 200: 240}  # depth → alpha where a name gives none


class Block(nn.Module):
    """Norm, convolution, norm, ReLU, convolution, norm, beside a shortcut without parameters.

    A bottleneck has convolutions 1×1, 3×3 (which has the stride) and 1×1, the last four times as wide.

    Args:
        inputs: channels in.
        width: channels of the convolutions, and out (of a bottleneck, four times that).
        stride: of the block and the shortcut.
        bottleneck: three convolutions.
    """

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.stride, self.bottleneck = stride, bottleneck
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 1) if bottleneck else conv(inputs, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride if bottleneck else 1)
        self.bn3 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv3 = conv(width, 4 * width, 1)
            self.bn4 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,outputs,H/stride,W/stride]."""
        y = self.bn3(self.conv2(self.relu(self.bn2(self.conv1(self.bn1(x))))))
        if self.bottleneck:
            y = self.bn4(self.conv3(self.relu(y)))
        # Averaged over 2×2 pixels where the block halves the image, and zeros in the channels it adds.
        shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if self.stride > 1 else x
        return F.pad(shortcut, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])) + y


def pyramidnet(given: Given, depth: int, alpha: int | None = None) -> nn.Module:
    """PyramidNet: the k-th of N blocks has 16 + alpha·k/N channels, with bottlenecks four times as many.

    As in the paper's tables, networks from depth 164 on have bottlenecks. Channels are rounded to the nearest,
    as in the authors' PyTorch code and in Overhaul's (arXiv 1904.01866), which counts 26.84 M parameters for
    pyramidnet200 and 3.91 M for pyramidnet110; the paper rounds down. Parameter names are that code's.

    Args:
        given: images of any size, because the last features are averaged over the image.
        depth: layers; 6n + 2 below 164 (8, 14, …, 110), 9n + 2 from there on (164, 200, 236, 272).
        alpha: channels that the last block has more than the stem (default: 84 for depth 110, 240 for 200).

    Raises:
        BadInput: a depth that does not fit, or one without a usual alpha and none given.
    """
    bottleneck = depth >= 164
    rule = f"pyramidnet{depth}: a PyramidNet's depth is 6n+2, with bottlenecks (from 164 on) 9n+2"
    blocks = blocks_of(depth, 9 if bottleneck else 6, 2, rule, "depth {} or {}")
    alpha = PUBLISHED.get(depth) if alpha is None else alpha
    if alpha is None:
        raise BadInput(
            f"pyramidnet{depth}: how many channels does it gain? Only {' and '.join(map(str, PUBLISHED))} have a "
            f"usual alpha. Take pyramidnet{depth}-a84."
        )
    stem = {"conv1": conv(given.channels, 16, 3), "bn1": nn.BatchNorm2d(16)}
    before = 16
    layers: list[list[nn.Module]] = [[], [], []]
    for k in range(3 * blocks):
        width = round(16 + alpha * (k + 1) / (3 * blocks))
        layers[k // blocks].append(Block(before, width, 2 if k in (blocks, 2 * blocks) else 1, bottleneck))
        before = 4 * width if bottleneck else width
    return he_init(
        chain(
            normalize=given.normalize,
            **stem,
            **{f"layer{i + 1}": nn.Sequential(*layer) for i, layer in enumerate(layers)},
            bn_final=nn.BatchNorm2d(before),
            relu_final=nn.ReLU(),
            mean=Mean(),
            fc=nn.Linear(before, given.classes),
        )
    )
