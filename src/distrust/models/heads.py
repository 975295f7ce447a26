"""The modules that heads are made of, and how a stored one is made again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..seeds import rng as make_rng
from ..seeds import seeded


class Neighbours(nn.Module):
    """Remembered features, and the labels that they vote for."""

    bank: Tensor
    labels: Tensor

    def __init__(self, images: int, features: int, classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.classes, self.k, self.temperature = classes, k, temperature
        self.register_buffer("bank", torch.zeros(images, features))
        self.register_buffer("labels", torch.zeros(images, dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B,D] of length 1 → log of the weighted votes [B,K]."""
        near, rows = (F.normalize(features, dim=1) @ self.bank.T).topk(min(self.k, len(self.bank)), dim=1)
        votes = features.new_zeros(len(features), self.classes)
        votes.scatter_add_(1, self.labels[rows], ((near - near[:, :1]) / self.temperature).exp())  # the nearest: 1
        return (votes + 1e-12).log()


def linear(features: int, classes: int) -> nn.Module:
    """One linear layer."""
    return nn.Linear(features, classes)


def perceptron(features: int, classes: int, dropout: float) -> nn.Module:
    """Hidden layers of 512 and 256 units."""
    layers = [nn.Linear(features, 512), nn.ReLU(), nn.Dropout(dropout), nn.Linear(512, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, classes))


KINDS: dict[str, Any] = {"linear": linear, "perceptron": perceptron, "neighbours": Neighbours}


def make(kind: str, *, rng: Generator | None = None, **shape: Any) -> nn.Module:
    """A head whose `spec` makes it again; `rng` draws its first weights (default: a fixed stream)."""
    with seeded(rng or make_rng("head")):
        built: nn.Module = KINDS[kind](**shape)
    built.spec = {"kind": kind, **shape}  # type: ignore[assignment]
    return built
