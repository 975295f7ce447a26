"""Residual networks, of small images and of ImageNet. He et al., arXiv 1512.03385."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ._parts import Given, Mean, blocks_of, chain, conv, he_init

LAYERS = {  # the paper's table 1: depth → whether blocks are bottlenecks, and how many a layer has
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


class Padded(nn.Module):
    """The paper's shortcut A, which has no weights: every second pixel, with channels of zeros on both sides.

    Args:
        more: channels that are added, half of them before the others.
    """

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,C,H,W] → [B,C+more,H/2,W/2]."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where shapes change.

    A bottleneck's convolutions are 1×1, 3×3 and 1×1, the last four times as wide. The 3×3 convolution has the stride,
    as in torchvision and the public CIFAR definition; in the paper the first 1×1 has it.

    Args:
        inputs: channels in.
        width: channels of the convolutions, and out (of a bottleneck, four times that).
        stride: of the block and the shortcut.
        skip: name of the shortcut, on which public checkpoints disagree.
        bottleneck: three convolutions.
        padded: shortcuts that change shape have no weights.
    """

    def __init__(self, inputs: int, width: int, stride: int, skip: str, bottleneck: bool, padded: bool = False) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        self.conv1 = conv(inputs, width, 1) if bottleneck else conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = conv(width, width, 3, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv3 = conv(width, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.skip = skip
        # Drawn even where it is left out: a seed keeps its weights.
        project = [conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)]
        change = [Padded(outputs - inputs)] if padded else project
        self.add_module(skip, nn.Sequential(*change if stride > 1 or inputs != outputs else []))

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,outputs,H/stride,W/stride]."""
        shortcut = getattr(self, self.skip)(x)  # first: the last norm to run is then the branch's
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        return self.relu(y + shortcut)


def resnet(given: Given, depth: int) -> nn.Module:
    """The CIFAR ResNet: three layers of 16, 32 and 64 channels; shortcuts that change shape are convolutions.

    Names and shortcuts are those of the checkpoints that distillation papers share (`downsample`, `fc`).

    Args:
        given: images of any size, because the last features are averaged over the image.
        depth: 6n + 2 layers: 8, 14, 20, 32, 44, 56, 110, …; 50 and 152 are `imagenet_resnet`'s.

    Raises:
        BadInput: a depth that is not 6n + 2.
    """
    rule = f"resnet{depth}: a small-image ResNet's depth is 6n+2"
    take = f"resnet{{}}, resnet{{}} or a depth of ImageNet's: {', '.join(map(str, LAYERS))}"
    blocks = blocks_of(depth, 6, 2, rule, take)
    return he_init(_resnet(given, (16, 32, 64), (blocks,) * 3))


def padded_resnet(given: Given, depth: int) -> nn.Module:
    """The CIFAR ResNet of the paper's table 6: shortcuts have no weights (A); with names that public checkpoints share.

    Args:
        given: images of any size.
        depth: 6n + 2 layers.

    Raises:
        BadInput: a depth that is not 6n + 2.
    """
    rule = f"resnet{depth}-a: a small-image ResNet's depth is 6n+2"
    blocks = blocks_of(depth, 6, 2, rule, "resnet{}-a or resnet{}-a")
    return he_init(_resnet(given, (16, 32, 64), (blocks,) * 3, skip="shortcut", head="linear", padded=True))


def imagenet_resnet(given: Given, depth: int, stem: int = 32) -> nn.Module:
    """ResNet-18 to ResNet-152: four layers of 64, 128, 256 and 512 channels, four times that with bottlenecks.

    With the small stem, names (`shortcut`, `linear`) and PyTorch's default initialisation are those of the
    public CIFAR definition on which the backdoor literature trains. With the large one, names (`downsample`,
    `fc`) are torchvision's, and the initialisation is He's.

    Args:
        given: images of any size, because the last features are averaged over the image.
        depth: 18 or 34 (two convolutions a block), 50, 101 or 152 (bottlenecks).
        stem: 32 for a 3×3 convolution; 224 for 7×7 with stride 2, then 3×3 max-pooling with stride 2.
    """
    bottleneck, blocks = LAYERS[depth]
    widths = (64, 128, 256, 512)
    if stem == 32:
        return _resnet(given, widths, blocks, bottleneck, skip="shortcut", head="linear")
    return he_init(_resnet(given, widths, blocks, bottleneck, large=True))


def _resnet(
    given: Given,
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    bottleneck: bool = False,
    *,
    skip: str = "downsample",
    head: str = "fc",
    large: bool = False,
    padded: bool = False,
) -> nn.Module:
    """A stem, one layer of blocks per width, a global mean and a linear layer called `head`."""
    before = widths[0]
    stem = {"conv1": conv(given.channels, before, *((7, 2) if large else (3, 1))), "bn1": nn.BatchNorm2d(before)}
    stem |= {"relu": nn.ReLU()} | ({"maxpool": nn.MaxPool2d(3, 2, 1)} if large else {})
    layers = {}
    for i, (width, n) in enumerate(zip(widths, blocks, strict=True)):
        after = 4 * width if bottleneck else width
        rest = [Block(after, width, 1, skip, bottleneck, padded) for _ in range(n - 1)]  # drawn first, as in `wrn`
        layers[f"layer{i + 1}"] = nn.Sequential(Block(before, width, 2 if i else 1, skip, bottleneck, padded), *rest)
        before = after
    return chain(normalize=given.normalize, **stem, **layers, mean=Mean(), **{head: nn.Linear(before, given.classes)})
