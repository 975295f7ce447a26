"""FT-SAM: fine-tune towards flat minima, which moves the large weights that a backdoor hangs on."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import NonNegative, defense
from ...seeds import rng as make_rng
from ...training import Training, fit
from .._costs import passes

SAM = Training(epochs=100, lr=0.01, batch_size=256, nesterov=False, schedule="cosine")


@defense(
    paper="Zhu, Wei, Shen, Fan, Wu, Enhancing Fine-Tuning based Backdoor Defense with Sharpness-Aware Minimization, "
    "ICCV 2023, arXiv 2304.11823",
    cost=passes(2),
)  # fmt: skip
def ft_sam(
    model: nn.Module,
    clean: ImageSet,
    *,
    rho: NonNegative = 2.0,
    smoothing: Annotated[float, Field(ge=0, le=0.5)] = 0.1,
    training: Training = SAM,
    rng: Generator | None = None,
) -> nn.Module:
    """Train from θ by the gradient of the cross-entropy at θ + ε, ε = ρ · θ² ⊙ g / ‖|θ| ⊙ g‖₂, g the gradient at θ.

    BatchNorm's running statistics are those of the first pass.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        rho: ρ ≥ 0, how far to look; 0 is fine-tuning.
        smoothing: share 0..0.5 of a label that the other classes get, in equal parts.
        training: how.
        rng: decides order and augmentation.

    Raises:
        Diverged: the loss exploded; lower lr.

    Differs from the released code: it lets the cosine of the rate go on once a step though its length counts epochs,
    so that the rate swings; here it falls once. As there, ρ is constant and the perturbation adaptive.
    """

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        loss = smoothed(model(x), y)
        gradients = torch.autograd.grad(loss, [*weights.values()], allow_unused=True, materialize_grads=True)
        pairs = [(p.detach(), g) for p, g in zip(weights.values(), gradients, strict=True)]
        scale = rho / (torch.stack([(p.abs() * g).norm() for p, g in pairs]).norm() + 1e-12)
        moves = [scale * p.square() * g for p, g in pairs]
        there = {name: p + move for (name, p), move in zip(weights.items(), moves, strict=True)}
        aside = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return smoothed(functional_call(model, {**there, **aside}, (x,)), y)

    def smoothed(logits: Tensor, y: Tensor) -> Tensor:
        classes = logits.shape[1]  # torch gives the label's own class a part of what is taken from it
        return F.cross_entropy(logits.float(), y, label_smoothing=smoothing * classes / (classes - 1))

    return fit(model, clean, training=training, objective=objective, rng=rng or make_rng("ft_sam"))
