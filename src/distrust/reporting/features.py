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
    from sklearn.manifold import TSNE  # takes a second to import

    if clean.shape[1:] != triggered.shape[1:]:
        raise BadInput(f"features are [N,D] and [M,D]; got {[*clean.shape]}, {[*triggered.shape]}.")
    both = torch.cat([clean[:POINTS], triggered[:POINTS]]).double()
    if not both.isfinite().all() or len(both.unique(dim=0)) < FEWEST:
        raise BadInput(f"fewer than {FEWEST} different finite features; there is nothing to lay out.")
    solver = TSNE(perplexity=min(30, len(both) / 4), init="pca", random_state=0)
    points = [[round(float(x), 2) for x in point] for point in solver.fit_transform(both.numpy())]
    ours, share = (y == target).tolist(), None
    if len(triggered) and any(ours):
        nearest = torch.cat([torch.cdist(part, clean.double()).argmin(1) for part in triggered.double().split(1024)])
        share = float((y[nearest] == target).double().mean())
    laid = list(zip(points, ours[:POINTS], strict=False))
    return {
        "others": [point for point, of_target in laid if not of_target],
        "targets": [point for point, of_target in laid if of_target],
        "triggered": points[len(laid) :],
        "share": share,
        "n": len(triggered),
    }
