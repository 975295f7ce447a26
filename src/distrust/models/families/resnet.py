"""Residual networks, of small images and of ImageNet. He et al., arXiv 1512.03385."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import BadInput
from ._init import fitting, he_init


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where shapes change.

    Args:
        inputs: channels in.
        width: channels of the convolutions, and out.
        stride: of the first convolution and the shortcut.
        skip: name of the shortcut, on which public checkpoints disagree.
    """

    expansion = 1  # channels out as a multiple of `width`

    def __init__(self, inputs: int, width: int, stride: int, skip: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.skip = skip
        self.add_module(skip, _shortcut(inputs, width, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,width,H/stride,W/stride]."""
        shortcut = getattr(self, self.skip)(x)  # first: the last norm to run is then the branch's
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """Convolutions 1×1, 3×3 and 1×1, the last four times as wide, beside a shortcut; arguments as for `Block`.

    The 3×3 convolution has the stride, as in torchvision and the public CIFAR definition; in the paper the
    first 1×1 has it.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, skip: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.skip = skip
        self.add_module(skip, _shortcut(inputs, 4 * width, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,4·width,H/stride,W/stride]."""
        shortcut = getattr(self, self.skip)(x)  # first, as in `Block`
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


LAYERS: dict[int, tuple[type[Block] | type[Bottleneck], tuple[int, ...]]] = {  # the paper's table 1
    18: (Block, (2, 2, 2, 2)),
    34: (Block, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A stem, one layer of blocks per width, a global mean and a linear layer called `head`.

    The stem is a 3×3 convolution; a `large` one is 7×7 and followed by pooling, and takes a quarter of the side.
    """

    def __init__(
        self,
        block: type[Block] | type[Bottleneck],
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        normalize: nn.Module,
        classes: int,
        channels: int,
        *,
        skip: str = "downsample",
        head: str = "fc",
        large: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        before = widths[0]
        self.conv1 = nn.Conv2d(channels, before, *((7, 2, 3) if large else (3, 1, 1)), bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else None
        self.stages = [f"layer{i + 1}" for i in range(len(widths))]
        for i, (stage, width, n) in enumerate(zip(self.stages, widths, blocks, strict=True)):
            after = block.expansion * width
            rest = [block(after, width, 1, skip) for _ in range(n - 1)]  # drawn first: a seed keeps its weights
            self.add_module(stage, nn.Sequential(block(before, width, 2 if i else 1, skip), *rest))
            before = after
        self.head = head
        self.add_module(head, nn.Linear(before, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def resnet(depth: int, *, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """The CIFAR ResNet: three layers of 16, 32 and 64 channels; shortcuts that change shape are convolutions.

    Names and shortcuts are those of the checkpoints that distillation papers share (`downsample`, `fc`).

    Args:
        depth: 6n + 2 layers: 8, 14, 20, 32, 44, 56, 110, …; 50 and 152 are `imagenet_resnet`'s.
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; any, because the last features are averaged over the image.

    Raises:
        BadInput: a depth that is not 6n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        below, above = fitting(depth, 2)
        raise BadInput(
            f"resnet{depth}: a small-image ResNet's depth is 6n+2, which {depth} is not. "
            f"Take resnet{below}, resnet{above} or a depth of ImageNet's: {', '.join(map(str, LAYERS))}."
        )
    model = ResNet(Block, (16, 32, 64), ((depth - 2) // 6,) * 3, normalize, classes, channels)
    he_init(model)
    return model


def imagenet_resnet(
    depth: int, stem: int = 32, *, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]
) -> nn.Module:
    """ResNet-18 to ResNet-152: four layers of 64, 128, 256 and 512 channels, four times that with bottlenecks.

    With the small stem, names (`shortcut`, `linear`) and PyTorch's default initialisation are those of the
    public CIFAR definition on which the backdoor literature trains. With the large one, names (`downsample`,
    `fc`) are torchvision's, and the initialisation is He's.

    Args:
        depth: 18 or 34 (two convolutions a block), 50, 101 or 152 (bottlenecks).
        stem: 32 for a 3×3 convolution; 224 for 7×7 with stride 2, then 3×3 max-pooling with stride 2.
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; any, because the last features are averaged over the image.
    """
    block, blocks = LAYERS[depth]
    widths = (64, 128, 256, 512)
    if stem == 32:
        return ResNet(block, widths, blocks, normalize, classes, channels, skip="shortcut", head="linear")
    model = ResNet(block, widths, blocks, normalize, classes, channels, large=True)
    he_init(model)
    return model


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    project = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*project if stride > 1 or inputs != outputs else [])
