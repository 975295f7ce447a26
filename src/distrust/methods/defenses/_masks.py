"""A mask on every BatchNorm channel of a network, trained while its weights stay, and the pruning by it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from ...data import ImageSet
from ...errors import Skip
from ...models import called
from ...training import Training, loop

Masked = Callable[[Tensor, Sequence[Tensor] | None], Tensor]  # images, noise [2,C] a layer → logits


def batch_norms(model: nn.Module, method: str) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Path → every BatchNorm of `model` with a scale and statistics.

    Raises:
        Skip: there is none.
    """
    kinds = nn.modules.batchnorm._BatchNorm
    norms = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
    found = {path: norm for path, norm in norms.items() if norm.affine and norm.track_running_stats}
    if not found:
        raise Skip(f"{method} masks channels of BatchNorm; {called(model)} has none with a scale and statistics.")
    return found


def learn_masks(
    model: nn.Module,
    clean: ImageSet,
    loss: Callable[[Masked, Tensor, Tensor], Tensor],
    *,
    method: str,
    training: Training,
    rng: Generator,
) -> dict[str, Tensor]:
    """Path of a BatchNorm → mask [C] in 0..1 that minimises a loss of the network, whose scales are γ · mask.

    Masks start at 1 and are put back into 0..1 after every step. Statistics are those of the batch.

    Args:
        model: stays as it is.
        clean: labelled images.
        loss: (masked network, x, y) → scalar. The masked network takes noise (δ, ξ) for every layer's mask and bias:
            its scales are then γ · (mask + δ), its biases β · (1 + ξ).
        method: whose name an error says.
        training: how.
        rng: decides order and augmentation.

    Raises:
        Skip: no BatchNorm.
    """
    frozen = copy.deepcopy(model).requires_grad_(False)
    norms = batch_norms(frozen, method)
    masks = nn.ParameterList(torch.ones_like(norm.weight) for norm in norms.values())

    def masked(x: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        own = {}
        for i, ((path, norm), mask) in enumerate(zip(norms.items(), masks, strict=True)):
            own[f"{path}.weight"] = norm.weight * (mask if noise is None else mask + noise[i][0])
            own[f"{path}.bias"] = norm.bias if noise is None else norm.bias * (1 + noise[i][1])
        return functional_call(frozen, own, (x,)).float()

    def clamp() -> None:
        with torch.no_grad():
            for mask in masks:
                mask.clamp_(0, 1)

    def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return loss(masked, x, y)

    loop(frozen, clean, objective, training, rng=rng, extra=[masks], after=clamp)
    return dict(zip(norms, (mask.detach() for mask in masks), strict=True))


def prune(model: nn.Module, masks: dict[str, Tensor], threshold: float) -> nn.Module:
    """A copy in eval mode in which the scale of every channel is 0 whose mask is no higher than the threshold."""
    pruned = copy.deepcopy(model).eval()
    with torch.no_grad():
        for path, mask in masks.items():
            pruned.get_parameter(f"{path}.weight")[mask <= threshold] = 0
    return pruned
