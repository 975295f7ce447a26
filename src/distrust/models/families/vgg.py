"""A small VGG with batch norm. Simonyan & Zisserman, arXiv 1409.1556."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ._parts import Given, he_init


class VGG(nn.Module):
    """Five blocks of one convolution, batch norm and ReLU; a global mean and a linear layer."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.normalize = given.normalize
        before = given.channels
        for i, width in enumerate((64, 128, 256, 512, 512)):
            layer = nn.Conv2d(before, width, 3, padding=1)
            self.add_module(f"block{i}", nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU()))
            before = width
        self.classifier = nn.Linear(before, given.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        pooled = 4 if min(x.shape[2:]) >= 64 else 3  # the last features stay 4×4 at 32 and at 64 pixels
        x = self.normalize(x)
        for i in range(5):
            x = getattr(self, f"block{i}")(x)
            if i < pooled:
                x = F.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3)))


def vgg_small(given: Given) -> nn.Module:
    """VGG-8 as distillation papers use it: five convolutions of 64, 128, 256, 512, 512 channels.

    The image is halved after the first three blocks (the first four from 64 pixels on). Parameter names
    (`block0.0`, `block0.1`, …, `classifier`) are those of the shared checkpoints.

    Args:
        given: images from 8 pixels on; the last features are averaged over the image.
    """
    return he_init(VGG(given))
