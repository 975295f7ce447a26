"""Feature maps: what a model makes of clean and of triggered images, laid out in the plane by t-SNE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput

MOST = 12  # maps on a page
POINTS = 300  # clean images drawn in a map, and as many triggered ones
FEWEST = 8  # different points that t-SNE needs


def feature_map(y: Tensor, clean: Tensor, triggered: Tensor, target: int) -> dict[str, Any]:
    """Lay out features of clean and triggered images together, and count whose neighbours the triggered ones are.

    Args:
        y: classes of the clean images [N].
        clean: their features [N,D].
        triggered: features of triggered images of other classes [M,D].
        target: class number that the trigger should lead to.

    Returns:
        {"others", "targets", "triggered": points [x, y], "share", "n"}: the first images are drawn; `share` is
        taken over all `n` triggered ones: those whose nearest clean image, in feature space, is of the target
        class. It is None where no clean image is of that class.

    Raises:
        BadInput: features that are not finite, not of one width, or nearly all the same.
    """
    if clean.ndim != 2 or clean.shape[1:] != triggered.shape[1:] or len(y) != len(clean):
        raise BadInput(f"features are [N,D] and [M,D]; got {[*clean.shape]}, {[*triggered.shape]}, {len(y)} classes.")
    shown, also = clean[:POINTS], triggered[:POINTS]
    both = torch.cat([shown, also]).double()
    if not both.isfinite().all() or len(both.unique(dim=0)) < FEWEST:
        raise BadInput(f"fewer than {FEWEST} different finite features; there is nothing to lay out.")
    points = _tsne(both)
    of_target = (y[:POINTS] == target).tolist()
    return {
        "others": [p for p, ours in zip(points, of_target, strict=False) if not ours],
        "targets": [p for p, ours in zip(points, of_target, strict=False) if ours],
        "triggered": points[len(shown) :],
        "share": _share(y, clean, triggered, target),
        "n": len(triggered),
    }


def _tsne(features: Tensor) -> list[list[float]]:
    from sklearn.manifold import TSNE

    solver = TSNE(perplexity=min(30, len(features) / 4), init="pca", random_state=0)
    return [[round(float(x), 2) for x in point] for point in solver.fit_transform(features.numpy())]


def _share(y: Tensor, clean: Tensor, triggered: Tensor, target: int) -> float | None:
    if not len(triggered) or not (y == target).any():
        return None
    nearest = torch.cat([torch.cdist(part, clean.double()).argmin(1) for part in triggered.double().split(1024)])
    return float((y[nearest] == target).double().mean())
