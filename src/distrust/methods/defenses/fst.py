"""FST: start the last layer anew and drive it away from what it was, so that the features have to move."""

from __future__ import annotations

import copy
import math

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...marks import NonNegative, defense
from ...models import check_fits, last_linear
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, cross_entropy, loop

TUNING = Training(epochs=10, lr=0.01, batch_size=128, nesterov=False, weight_decay=0.0, schedule="cosine")


@defense(
    paper="Min, Qin, Shen, Cheng, Towards Stable Backdoor Purification through Feature Shift Tuning, NeurIPS 2023, "
    "arXiv 2310.01875"
)
def fst(
    model: nn.Module,
    clean: ImageSet,
    *,
    alpha: NonNegative = 0.1,
    training: Training = TUNING,
    rng: Generator | None = None,
) -> nn.Module:
    """Draw the last layer anew, then train all layers on CE + α · Σ W ⊙ W₀, after each step W ← W · ‖W₀‖ / ‖W‖.

    W is the last layer's weight and W₀ what it was; weight and bias are drawn from U(−1/√D, 1/√D), D its inputs.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        alpha: weight ≥ 0 of the inner product; smaller for many classes.
        training: how; by SGD without weight decay.
        rng: decides the new layer, order and augmentation.

    Raises:
        BadInput: the model has no linear layer.
        Diverged: the loss exploded; lower lr.

    Differs from the released code: the rate follows its cosine step by step, not epoch by epoch.
    """
    check_fits(model, clean)
    rng = rng or make_rng("fst")
    tuned, draw = copy.deepcopy(model), spawn(rng)
    last = last_linear(tuned, clean.x.shape[1:])
    before = last.get_parameter("weight").detach().clone()
    with torch.no_grad():
        for parameter in last.parameters():
            drawn = 2 * torch.rand(parameter.shape, generator=draw) - 1
            parameter.copy_(drawn / math.sqrt(before.shape[1]))

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model, x, y) + alpha * (last.get_parameter("weight") * before).sum()

    def rescale() -> None:
        with torch.no_grad():
            weight = last.get_parameter("weight")
            weight.mul_(before.norm() / weight.norm())

    return loop(tuned, clean, objective, training, rng=rng, after=rescale)
