"""CLP: channels that can amplify most of what they see are a backdoor's; no image is needed to find them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...errors import Skip
from ...marks import NonNegative, defense
from ...models import called, runs_of
from .._costs import free
from ._channels import silence


@defense(
    paper="Zheng, Tang, Li, Liu, Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022, "
    "arXiv 2208.03111",
    on="encoder", also="classifier", unlabelled=True, cost=free,
)  # fmt: skip
def clp(encoder: nn.Module, clean: ImageSet, *, u: NonNegative = 3.0, rng: Generator | None = None) -> nn.Module:
    """Silence every BatchNorm channel whose bound σ(W_c) · |γ_c / √var_c| exceeds its layer's mean + u · std.

    σ is the largest singular value of the channel's convolution [inputs, height · width]. It needs no images.

    Args:
        encoder: the suspect, a classifier or an encoder.
        clean: the defender's images (only their shape is used).
        u: threshold in standard deviations over the layer's channels.
        rng: not used.

    Raises:
        Skip: no BatchNorm behind a convolution.

    Differs from the released code: a BatchNorm belongs to the last convolution that ran before it with as many
    channels, not to the last one defined; the variance gets BatchNorm's ε.
    """
    pruned = copy.deepcopy(encoder).eval()
    pairs = _pairs(pruned, clean.x.shape[1:])
    if not pairs:
        raise Skip(f"clp needs a BatchNorm behind a convolution; {called(encoder)} has none.")
    for norm, convolution in pairs.items():
        gain = (norm.weight / (norm.get_buffer("running_var") + norm.eps).sqrt()).abs()
        bound = gain * torch.linalg.matrix_norm(convolution.weight.float().flatten(2), ord=2)
        silence(norm, bound > bound.mean() + u * bound.std())
    return pruned


def _pairs(encoder: nn.Module, shape: Sequence[int]) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each BatchNorm with a scale and statistics, and its convolution."""
    found: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    before: dict[int, nn.Conv2d] = {}  # channels → the last convolution so far
    for module in (call.module for call in runs_of(encoder, shape)):
        if isinstance(module, nn.Conv2d):
            before[module.out_channels] = module
        elif isinstance(module, nn.BatchNorm2d) and module.num_features in before:
            found[module] = before[module.num_features]
    return {norm: conv for norm, conv in found.items() if norm.affine and norm.track_running_stats}
