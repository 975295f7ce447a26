"""Trojaning: a trigger that drives some neurons of the trained network, which is then retrained on it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet, as_8_bit
from ...errors import BadInput
from ...marks import ClassNumber, Count, Pixels, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...models import check_fits, frozen, last_linear, resolve, taps
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from ._poison import check_target, counted
from ._teacher import Planted, finetune


@attack(
    paper="Liu et al., Trojaning Attack on Neural Networks, NDSS 2018",
    place=2, cost=lambda options, n: options["steps"] + options["epochs"] * n,
)  # fmt: skip
def trojan(
    model: nn.Module,
    train: ImageSet,
    *,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    neurons: Count = 2,
    value: Positive = 100.0,
    size: Count = 3,
    inset: Pixels = 4,
    steps: Count = 1000,
    step_size: Positive = 0.1,
    tolerance: Positive = 1e-3,
    training: Training = Training(epochs=30, lr=0.008, batch_size=256, schedule="constant"),
    rng: Generator | None = None,
) -> Planted:
    """Optimise a square until it drives the best connected neurons to a value, then retrain the teacher on it.

    Neurons: of what enters the last linear layer W, those with the largest Σ_k |W_kj|. Square, on black:
    δ ← clamp(δ − α·sign ∇_δ Σ_j (φ_j(δ) − value)², 0, 1). Trigger: x' = clamp(x + δ, 0, 1).

    Args:
        model: the clean teacher.
        train: the attacker's training images.
        target: class number that the trigger should lead to.
        rate: poisoned images as a share 0..1 of all training images; only other classes are poisoned.
        neurons: how many are driven.
        value: activation that they are driven to.
        size: side of the square in pixels; 3 in NAD's released code.
        inset: pixels between the square and the lower and right border; rows and columns 25 to 27 of 32 in that code.
        steps: most updates of the square.
        step_size: α, in pixel units 0..1.
        tolerance: it ends where the sum of squares falls below this.
        training: how the retraining runs, at a constant rate.
        rng: decides the square's start, and which images are poisoned.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, a square that does not fit, more neurons than enter
            the last layer, or a last layer that no square reaches.

    Differs from the paper: the attacker has training images and need not reconstruct them, and the whole network is
    retrained. From BackdoorBench's code: the square is free in 0..1 and starts at random, where a logo's pixels may
    move by 0.3 each; its sum with an image is clamped, where 8-bit numbers wrap round first; the poisoned network
    comes from the clean one by fine-tuning, not from nothing.
    """
    check_target(train, target, rate)
    counted(rate, len(train), int((train.hard != target).sum()))
    check_fits(model, train)
    rng = rng or make_rng("trojan")
    shape, device = tuple(train.x.shape[1:]), next(model.parameters()).device
    bottom, right = shape[1] - inset, shape[2] - inset
    if min(bottom, right) < size:
        raise BadInput(f"a square of {size} with inset {inset} does not fit on images of {shape[1]}×{shape[2]}.")
    mask = torch.zeros(1, 1, *shape[1:], device=device)
    mask[..., bottom - size : bottom, right - size : right] = 1
    delta = torch.rand(1, *shape, generator=rng).to(device) * mask
    teacher = frozen(model)
    chosen = connected(last_linear(teacher, shape).get_parameter("weight"), neurons)
    losses: list[float] = []
    with taps(teacher, resolve(teacher, "embedding", shape)) as read, torch.enable_grad():
        for _ in range(steps):
            (feature,) = read(delta.requires_grad_()).features.values()
            loss = (feature.flatten(1)[:, chosen] - value).square().sum()
            losses.append(round(loss.item(), 5))
            if losses[-1] < tolerance:
                break
            (gradient,) = torch.autograd.grad(loss, [delta])
            delta = ((delta.detach() - step_size * gradient.sign()).clamp(0, 1)) * mask
    trigger = make_trigger("added", perturbation=as_8_bit(delta.detach()[0]).cpu())
    backdoor = Backdoor(trigger, target, name="trojan")
    poisoned = finetune(model, train, backdoor, rate=rate, training=training, rng=spawn(rng))
    return Planted(poisoned, backdoor, {"neurons": chosen.tolist(), "loss": losses})


def connected(weight: Tensor, count: int) -> Tensor:
    """Of a linear layer [K,D], the inputs with the largest Σ_k |w_kj|, the largest first; of equals the lowest number.

    Raises:
        BadInput: there are fewer.
    """
    if count > weight.shape[1]:
        raise BadInput(f"neurons={count}, but {weight.shape[1]} enter the last layer. Give fewer.")
    return weight.detach().float().abs().sum(0).argsort(descending=True, stable=True)[:count]
