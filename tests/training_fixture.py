"""Images, a network and comparisons that the tests of training share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distrust.data import ImageSet
from distrust.seeds import rng

CLASSES = 3


def images(n=48, size=8, soft=False, **changes):
    """Random images; a class is a brightness."""
    source = rng("images", n, size)
    y = torch.arange(n) % CLASSES
    x = torch.randint(80, (n, 3, size, size), generator=source) + 80 * y[:, None, None, None]
    labels = F.one_hot(y, CLASSES).float() * 0.9 + 0.1 / CLASSES if soft else y
    return ImageSet(x.to(torch.uint8), labels, ("a", "b", "c"), **changes)


def net(width=4, seed=0, dropout=0.0):
    """Two convolutions and a batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.Dropout(dropout),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, CLASSES),
        )


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


FAST = {"epochs": 1, "batch_size": 16, "precision": "fp32", "memory_format": "contiguous"}
