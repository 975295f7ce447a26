"""Embedding: what a model makes of images on the way to its answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.images import ImageSet
from ..models import at_once, eval_mode, laid_out, resolve, taps
from .backdoor import Backdoor
from .predict import BATCH


def embedding(model: nn.Module, images: ImageSet, backdoor: Backdoor | None = None) -> Tensor:
    """What enters the last linear layer [N,D], of images stamped first if a backdoor is given."""
    (place,) = resolve(model, "embedding", images.x.shape[1:])
    return activations(model, images, [place], backdoor)[place]


def activations(
    model: nn.Module, images: ImageSet, places: Sequence[str], backdoor: Backdoor | None = None
) -> dict[str, Tensor]:
    """Module path → [N,C]: every image's activations, averaged over positions, on the CPU."""
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {place: [] for place in places}
    with taps(model, places) as read, eval_mode(model), torch.no_grad():
        for x, _ in images.batches(at_once(images.x.shape[1:], BATCH)):
            x = x.to(device)
            features = read(laid_out(backdoor.stamp_on(x) if backdoor else x)).features
            for place, feature in features.items():
                found[place].append((feature.flatten(2).mean(2) if feature.ndim > 2 else feature).float().cpu())
    return {place: torch.cat(parts) for place, parts in found.items()}
