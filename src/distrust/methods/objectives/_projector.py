"""The small networks between an encoder's features and its loss; they are thrown away after pre-training."""

from __future__ import annotations

from torch import nn


def projector(features: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, linear."""
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out)
    )
