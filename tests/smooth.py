"""A WRN-10-1 without kinks: the rounding of another processor cannot push an activation over one."""

import torch
from torch import nn

from distrust.models import model
from distrust.seeds import spawn


def make(classes: int, channels: int, size: int) -> nn.Module:
    """SiLU in place of every ReLU."""
    built = model("wrn10-1", classes=classes, channels=channels, size=size, rng=spawn(torch.default_generator))
    for module in [*built.modules()]:
        for name, inner in module.named_children():
            if isinstance(inner, nn.ReLU):
                setattr(module, name, nn.SiLU())
    return built
