"""A small VGG with batch norm. Simonyan & Zisserman, arXiv 1409.1556."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ._init import he_init


class VGG(nn.Module):
    """Five blocks of one convolution, batch norm and ReLU; a global mean and a linear layer."""

    def __init__(self, normalize: nn.Module, classes: int, channels: int) -> None:
        super().__init__()
        self.normalize = normalize
        widths = (channels, 64, 128, 256, 512, 512)
        for i in range(5):
            conv = nn.Conv2d(widths[i], widths[i + 1], 3, padding=1)
            self.add_module(f"block{i}", nn.Sequential(conv, nn.BatchNorm2d(widths[i + 1]), nn.ReLU()))
        self.classifier = nn.Linear(512, classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        pooled = 4 if min(x.shape[2:]) >= 64 else 3  # the last features stay 4×4 at 32 and at 64 pixels
        x = self.normalize(x)
        for i in range(5):
            x = getattr(self, f"block{i}")(x)
            if i < pooled:
                x = F.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3)))


def vgg_small(*, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """VGG-8 as distillation papers use it: five convolutions of 64, 128, 256, 512, 512 channels.

    The image is halved after the first three blocks (the first four from 64 pixels on). Parameter names
    (`block0.0`, `block0.1`, …, `classifier`) are those of the shared checkpoints.

    Args:
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels, from 8 on; the last features are averaged over the image.
    """
    return VGG(normalize, classes, channels)
