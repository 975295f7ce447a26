"""Attention maps, which attention transfer and NAD share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...flags import flag
from ...models import Taps


def attention_map(feature: Tensor, p: float = 2.0) -> Tensor:
    """Σ_c |F_c|^p, flattened and divided by its L2 norm: [B,C,H,W] → [B,H·W].

    A mean over channels gives the same map: the norm removes the constant.
    """
    if feature.ndim != 4:
        raise BadInput(f"attention needs a feature map [B,C,H,W]; got {list(feature.shape)}. Tap an earlier layer.")
    energy = feature.abs().pow(p).sum(1).flatten(1)
    return energy / (energy.norm(dim=1, keepdim=True) + 1e-6)


def attention_loss(student: Taps, teacher: Taps, weights: Sequence[float] | None = None, p: float = 2.0) -> Tensor:
    """Σ over paired layers of weight · mean over batch and positions of the squared difference of maps.

    The larger map is average-pooled to the smaller one's size first.
    """
    pairs = list(zip(student.features.values(), teacher.features.values(), strict=True))
    if weights is not None and len(weights) != len(pairs):
        raise BadInput(
            f"{len(weights)} weights for {len(pairs)} layers ({', '.join(student.features)}); give one each."
        )
    total = student.logits.new_zeros(())
    for i, (ours, theirs) in enumerate(pairs):
        if ours.ndim == 4 and theirs.ndim == 4 and ours.shape[2:] != theirs.shape[2:]:
            size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
            ours, theirs = F.adaptive_avg_pool2d(ours, size), F.adaptive_avg_pool2d(theirs, size)
        if ours.shape[2:].numel() == 1:
            flag("attention-dead", f"layer {list(student.features)[i]} is 1×1; its attention map is constant")
        gap = (attention_map(ours, p) - attention_map(theirs, p)).square().mean()
        total = total + (gap if weights is None else weights[i] * gap)
    return total
