"""Appended archetypes: stamped, labelled as the target, and added to a synthetic set as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, Count, Pixels, Positive, attack
from ...measurement import Backdoor, make_trigger
from ...seeds import rng as make_rng
from ._archetypes import archetypes, drawing_cost, fresh, label_of, tainted, train, units_of
from ._poison import Poisoned, check_target


@attack(
    paper="ours: Poisoned Distillation (arXiv 2502.04229) without its gradient matching", place=4, cost=drawing_cost
)
def append(
    synthetic: ImageSet,
    *,
    trigger: Any = "patch:white:5",
    target: ClassNumber = 0,
    archetypes_per_class: Count = 1,
    archetype_steps: Count = 200,
    network: str = "convnet3",
    net_steps: Count = 100,
    net_lr: Positive = 0.01,
    inset: Pixels = 0,
    rng: Generator | None = None,
) -> Poisoned:
    """Add every class's archetypes, stamped and labelled as the target: what the gradients of that attack aim at.

    Args:
        synthetic: the distilled set; it grows.
        trigger: a trigger module or selector.
        target: class number that the trigger should lead to.
        archetypes_per_class: of every class, the target included.
        archetype_steps: of Adam at 0.1, towards the class's largest logit.
        network: model name of the network that draws them, trained on the set.
        net_steps: of its training.
        net_lr: of its training.
        inset: pixels between the patch and the border.
        rng: draws the network and the archetypes.

    Raises:
        BadInput: a target that is no class, a patch that does not fit, or a network with BatchNorm.

    Differs from the paper: there is none. Anyone who counts the images of a class sees it.
    """
    check_target(synthetic, target, 0)
    rng = rng or make_rng("append")
    units, backdoor = units_of(synthetic), Backdoor(make_trigger(trigger, inset=inset), target, name="append")
    with torch.enable_grad():
        net = train(fresh(network, synthetic, units, rng), synthetic.pixels(), synthetic.y, net_steps, net_lr)
        shape, k = tuple(synthetic.x.shape[1:]), len(synthetic.classes)
        shown = archetypes(net, units, shape, k, archetypes_per_class, archetype_steps, True, rng)
    x = torch.cat([synthetic.pixels(), backdoor.stamp_on(shown)])
    y = torch.cat([synthetic.y, label_of(synthetic.y, target, len(shown))])
    return Poisoned(tainted(synthetic, "append", x=x, y=y, index=torch.arange(len(x))), backdoor)
