"""Noise images of any shape, and a name of every family."""

import torch

from distrust.data import ImageSet
from distrust.seeds import rng

EVERY = ["wrn10-1", "wrn10-1-s2", "wrn16-2", "resnet8", "resnet8-a", "resnet18", "vgg-small"]
EVERY += ["convnet2-w8", "convnet3-w16"]
EVERY += ["resnet18-224", "pyramidnet8-a12", "mobilenet", "mobilenet-224"]


def pictures(channels=3, height=16, width=16, classes=4, n=8):
    x = torch.randint(256, (n, channels, height, width), generator=rng("pictures"), dtype=torch.uint8)
    return ImageSet(x, torch.arange(n) % classes, tuple(f"class {i}" for i in range(classes)))
