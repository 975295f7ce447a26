"""MobileNet, the first version. Howard et al., arXiv 1704.04861."""

from __future__ import annotations

from torch import Tensor, nn

from ._parts import Given, conv

# Channels out and stride of the thirteen separable convolutions: the paper's table 1.
SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class MobileNet(nn.Module):
    """A convolution, thirteen separable ones (depthwise 3×3, then 1×1), a global mean and a linear layer."""

    def __init__(self, given: Given, stride: int) -> None:
        super().__init__()
        self.normalize = given.normalize
        before = 32
        blocks = [nn.Sequential(*_active(conv(given.channels, before, 3, stride)))]
        for width, halving in SEPARABLE:
            depthwise = _active(conv(before, before, 3, halving, groups=before))
            blocks.append(nn.Sequential(*depthwise, *_active(conv(before, width, 1))))
            before = width
        self.model = nn.ModuleList(blocks)
        self.fc = nn.Linear(before, given.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        x = self.normalize(x)
        for i, block in enumerate(self.model):
            # The first two layer by layer: what they return is no group's end, as in Overhaul.
            for part in block.children() if i < 2 else [block]:
                x = part(x)
        return self.fc(x.mean((2, 3)))


def mobilenet(given: Given, stem: int = 32) -> nn.Module:
    """MobileNet of full width: 32 to 1024 channels; PyTorch's initialisation, as in the public definitions.

    Parameter names (`model.0.0`, …, `fc`) are those of the ImageNet checkpoints.

    Args:
        given: images of any size, because the last features are averaged over the image.
        stem: 32 for a first convolution with stride 1 (the last features of 32 pixels are then 2×2); 224 for
            the paper's stride 2.
    """
    return MobileNet(given, 1 if stem == 32 else 2)


def _active(layer: nn.Conv2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]
