"""k nearest neighbours: the images whose features are nearest vote."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...marks import Count, Positive, head
from ...models.heads import make


@head(paper="Wu, Xiong, Yu, Lin, Non-Parametric Instance Discrimination, CVPR 2018, arXiv 1805.01978")
def knn(
    features: Tensor, y: Tensor, classes: int, *, k: Count = 200, temperature: Positive = 0.5,
    rng: Generator | None = None,
) -> nn.Module:  # fmt: skip
    """The k most alike training images vote, each with weight exp(cos / τ).

    Args:
        features: [N,D], each of length 1.
        y: class numbers [N].
        classes: K.
        k: neighbours, at most all.
        temperature: τ.
        rng: not used.

    Differs from the paper: k and τ are those of BadEncoder's and MIMIC's code.
    """
    head = make(
        "neighbours", images=len(features), features=features.shape[1], classes=classes, k=k, temperature=temperature
    )
    with torch.no_grad():
        head.bank.copy_(features)  # type: ignore[operator]
        head.labels.copy_(y)  # type: ignore[operator]
    return head.to(features.device)
