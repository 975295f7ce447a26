"""Many or large images through a model, in parts that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

PIXELS = 2**22  # values of images that a model is shown at once without gradients: 341 images of 3×64×64
BYTES = 2_500_000_000  # kept for a backward pass; 320 images of 3×32×32 through a WRN-28-4 keep 2.4 GB
LARGE = 64  # pixels a side up to which images stay contiguous, so that bits stay


def at_once(shape: Sequence[int], most: int) -> int:
    """How many images of a shape (C,H,W) to show a model without gradients, `most` at most; fewer if they are large."""
    return max(min(most, PIXELS // math.prod(shape)), 1)


def room(model: nn.Module, shape: Sequence[int]) -> int:
    """How many images of a shape (C,H,W) go through a model with gradients at once: what one keeps is counted.

    What they keep stays below `BYTES`, or an eighth of a GPU's memory if that is more; at least one goes.
    """
    weights = [*model.parameters(), *model.buffers()]
    image = torch.zeros(1, *shape, device=weights[0].device if weights else "cpu", requires_grad=True)
    known = {tensor.untyped_storage().data_ptr() for tensor in weights}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        model(image)
    each = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in known)
    most = BYTES
    if image.is_cuda:
        most = max(most, torch.cuda.get_device_properties(image.device).total_memory // 8)
    return max(most // max(each, 1), 1)


def in_parts(run: Callable[[Tensor], Any], x: Tensor, size: int) -> Any:
    """What `run` makes of images [B,C,H,W], so many at once, as if it had seen all of them: a tensor or `Taps`.

    With gradients, a part's inner features are thrown away and computed again when the gradient comes by (Gao et al.,
    arXiv 2101.06983), so that only one part's are in memory. No more than `size` images are one part, as they were.

    Args:
        run: a model, or how one is read; it must treat images one by one, so no BatchNorm in train mode and no dropout.
        x: images.
        size: most in one part, ≥ 1.
    """
    if len(x) <= size:
        return run(laid_out(x))
    if torch.is_grad_enabled():
        size = max(2 * size // 3, 1)  # a part that is computed again needs more than it keeps
    parts = (laid_out(part) for part in x.split(size))
    return _joined([checkpoint(run, part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def laid_out(x: Tensor) -> Tensor:
    """Large images, where no gradient is asked for, in the memory format that is faster then; others as they are."""
    large = min(x.shape[2:]) > LARGE and not torch.is_grad_enabled()
    return x.contiguous(memory_format=torch.channels_last) if large else x


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat([*parts])
    if isinstance(parts[0], dict):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    return type(parts[0])(*map(_joined, zip(*parts, strict=True)))
