"""MobileNet, the first version. Howard et al., arXiv 1704.04861."""

from __future__ import annotations

from torch import Tensor, nn

# Channels out and stride of the thirteen separable convolutions: the paper's table 1.
SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class MobileNet(nn.Module):
    """A convolution, thirteen separable ones (depthwise 3×3, then 1×1), a global mean and a linear layer."""

    def __init__(self, stride: int, normalize: nn.Module, classes: int, channels: int) -> None:
        super().__init__()
        self.normalize = normalize
        before = 32
        blocks = [nn.Sequential(*_conv(channels, before, 3, stride))]
        for width, halving in SEPARABLE:
            depthwise = _conv(before, before, 3, halving, groups=before)
            blocks.append(nn.Sequential(*depthwise, *_conv(before, width, 1)))
            before = width
        self.model = nn.ModuleList(blocks)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        x = self.normalize(x)
        for i, block in enumerate(self.model):
            # The first two layer by layer: what they return is no group's end, as in Overhaul.
            for part in block.children() if i < 2 else [block]:
                x = part(x)
        return self.fc(x.mean((2, 3)))


def mobilenet(stem: int = 32, *, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """MobileNet of full width: 32 to 1024 channels; PyTorch's initialisation, as in the public definitions.

    Parameter names (`model.0.0`, …, `fc`) are those of the ImageNet checkpoints.

    Args:
        stem: 32 for a first convolution with stride 1 (the last features of 32 pixels are then 2×2); 224 for
            the paper's stride 2.
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; any, because the last features are averaged over the image.
    """
    return MobileNet(1 if stem == 32 else 2, normalize, classes, channels)


def _conv(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
