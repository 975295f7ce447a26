"""The embedding of each image, which relational distillers compare across the batch."""

from __future__ import annotations

from torch import Tensor

from ...errors import BadInput
from ...models import Taps


def embedding(read: Taps) -> Tensor:
    """The last tapped feature, [B,D]; a feature map [B,C,H,W] is averaged over its pixels.

    Raises:
        BadInput: nothing was tapped, or the feature is neither a vector nor a map for each image.
    """
    if not read.features:
        raise BadInput("no layer was tapped, and this distiller reads an embedding. Type layers=embedding, or a path.")
    path, feature = list(read.features.items())[-1]
    if feature.ndim == 4:
        return feature.mean((2, 3))
    if feature.ndim != 2:
        raise BadInput(
            f"layer {path!r} gives {list(feature.shape)}; an embedding is [B,D], or a feature map [B,C,H,W]. "
            "Name such a layer."
        )
    return feature
