"""Residual networks for small images. He et al., arXiv 1512.03385."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import BadInput
from ._init import fitting, he_init


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where shapes change.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution and the shortcut.
        skip: name of the shortcut, on which public checkpoints disagree.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, skip: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = skip
        project = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.add_module(skip, nn.Sequential(*project if stride > 1 or inputs != outputs else []))

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,outputs,H/stride,W/stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + getattr(self, self.skip)(x))


class ResNet(nn.Module):
    """A 3×3 stem, one layer of `blocks` blocks per width, a global mean and a linear layer called `head`."""

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: int,
        normalize: nn.Module,
        classes: int,
        channels: int,
        skip: str = "downsample",
        head: str = "fc",
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.stages = [f"layer{i + 1}" for i in range(len(widths))]
        before = widths[0]
        for i, (stage, width) in enumerate(zip(self.stages, widths, strict=True)):
            rest = [Block(width, width, 1, skip) for _ in range(blocks - 1)]
            self.add_module(stage, nn.Sequential(Block(before, width, 2 if i else 1, skip), *rest))
            before = width
        self.head = head
        self.add_module(head, nn.Linear(before, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def resnet(depth: int, *, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """The CIFAR ResNet: three layers of 16, 32 and 64 channels; shortcuts that change shape are convolutions.

    Names and shortcuts are those of the checkpoints that distillation papers share (`downsample`, `fc`).

    Args:
        depth: 6n + 2 layers: 8, 14, 20, 32, 44, 56, 110, …
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
            f"Take resnet{below}, resnet{above} or the wide resnet18."
        )
    model = ResNet((16, 32, 64), (depth - 2) // 6, normalize, classes, channels)
    he_init(model)
    return model


def resnet18(*, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """ResNet-18 with a 3×3 stem and no pooling after it: four layers of 64, 128, 256 and 512 channels.

    Names (`shortcut`, `linear`) and PyTorch's default initialisation are those of the public CIFAR definition
    on which the backdoor literature trains.

    Args:
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; any, because the last features are averaged over the image.
    """
    return ResNet((64, 128, 256, 512), 2, normalize, classes, channels, skip="shortcut", head="linear")
