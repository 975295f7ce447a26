"""MCR: leave the suspect along a curve of low loss that ends at its fine-tuned copy, and stop on the way."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ...data import PLAIN, ImageSet
from ...marks import Count, Rate, defense
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, fit, loop
from ._schedule import FINETUNING


@defense(
    paper="Zhao, Chen, Das, Ramamurthy, Lin, Bridging Mode Connectivity in Loss Landscapes and Adversarial Robustness, "
    "ICLR 2020, arXiv 2005.00060"
)
def mcr(
    model: nn.Module,
    clean: ImageSet,
    *,
    t: Rate = 0.1,
    teacher_epochs: Count = 10,
    training: Training = FINETUNING,
    rng: Generator | None = None,
) -> nn.Module:
    """Train the bend θ_c of θ(t) = (1 − t)² θ + 2t(1 − t) θ_c + t² θ_f by CE at a t ~ U(0, 1) a step; return θ(t).

    θ is the suspect, θ_f its fine-tuned copy; θ_c starts half-way. BatchNorm's statistics at the point that is returned
    are taken anew from the clean images.

    Args:
        model: the suspect, t = 0.
        clean: the defender's labelled images.
        t: which point of the curve, 0..1; BackdoorBench takes 0.1. Let a study tune it, high values first.
        teacher_epochs: passes of the fine-tuning that makes the other end.
        training: how the bend is trained, and but for the epochs the fine-tuning before it.
        rng: decides order, augmentation and the points.

    Raises:
        Diverged: the loss exploded; lower lr.

    Differs from the paper: the other end is the suspect's fine-tuned copy, as in BackdoorBench, where the paper has two
    backdoored models. The weight decay is the bend's and not the curve's, and its rate falls as `finetune`'s.
    """
    rng = rng or make_rng("mcr")
    end = dict(fit(model, clean, training=replace(training, epochs=teacher_epochs), rng=spawn(rng)).named_parameters())
    start = {name: p.detach() for name, p in model.named_parameters()}
    bend, draw = copy.deepcopy(model), spawn(rng)

    def at(t: float, bend: nn.Module) -> dict[str, Tensor]:
        return {
            name: (1 - t) ** 2 * start[name] + 2 * t * (1 - t) * p + t**2 * end[name].detach()
            for name, p in bend.named_parameters()
        }

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        drawn = float(torch.rand((), generator=draw))
        return F.cross_entropy(functional_call(model, at(drawn, model), (x,)).float(), y)

    with torch.no_grad():
        for name, p in bend.named_parameters():
            p.copy_((start[name] + end[name]) / 2)
    bend = loop(bend, clean, objective, training, rng=rng)
    with torch.no_grad():
        for (_, p), value in zip(bend.named_parameters(), at(t, bend).values(), strict=True):
            p.copy_(value)
    return _settled(bend, clean, training.batch_size, spawn(rng))


def _settled(model: nn.Module, clean: ImageSet, size: int, rng: Generator) -> nn.Module:
    """The model in eval mode, its BatchNorm statistics the mean over batches of clean images."""
    kinds = nn.modules.batchnorm._BatchNorm
    norms = {module: module.momentum for module in model.modules() if isinstance(module, kinds)}
    if not norms:
        return model.eval()
    device = next(model.parameters()).device
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    with torch.no_grad():
        for x, _ in clean.batches(size, rng, PLAIN):
            model(x.to(device))
    for norm, momentum in norms.items():
        norm.momentum = momentum
    return model.eval()
