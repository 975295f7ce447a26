"""Optimizers and learning rate schedules by name."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import BadInput


def make_optimizer(
    name: str, parameters: list[nn.Parameter], lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> torch.optim.Optimizer:
    """Fused SGD, or Adam; BadInput for another name."""
    if name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr,
            momentum,
            weight_decay=weight_decay,
            nesterov=nesterov and momentum > 0,
            fused=True,
        )
    if name == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)
    raise BadInput(f"optimizer={name!r} is not known; type 'sgd' or 'adam'.")


def make_schedule(
    name: str, solver: torch.optim.Optimizer, lr: float, steps: int, milestones: list[int], gamma: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """The rate as a function of the step; BadInput for another name."""
    kinds = torch.optim.lr_scheduler
    if name == "onecycle":
        return kinds.OneCycleLR(solver, lr, total_steps=steps + 1, cycle_momentum=False)
    if name == "cosine":
        return kinds.CosineAnnealingLR(solver, steps)
    if name == "step":
        return kinds.MultiStepLR(solver, milestones, gamma)
    if name == "constant":
        return kinds.ConstantLR(solver, 1.0)
    raise BadInput(f"schedule={name!r} is not known; type 'onecycle', 'cosine', 'step' or 'constant'.")
