from __future__ import annotations

from torch import nn


def he_init(model: nn.Module) -> None:
    """Convolutions ~ N(0, 2 / fan-out) (He et al., arXiv 1502.01852), norms 1 and 0, every bias 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def fitting(depth: int, offset: int) -> tuple[int, int]:
    """The depths 6n + `offset` (n ≥ 1) just below and above one that does not fit."""
    below = max(depth - (depth - offset) % 6, 6 + offset)
    return below, below + 6
