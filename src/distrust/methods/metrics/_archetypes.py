"""Archetypes as a product of their own, and the share of them that a model calls the target."""

from __future__ import annotations

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...marks import Count, Positive
from ...measurement import Backdoor
from ...models import at_once, eval_mode, in_parts
from ..attacks._archetypes import archetypes as drawn
from ..attacks._archetypes import fresh, train, units_of


def archetypes(
    before: ImageSet,
    *,
    network: str = "convnet3",
    net_steps: Count = 100,
    net_lr: Positive = 0.01,
    archetypes_per_class: Count = 1,
    archetype_steps: Count = 200,
    legal: bool = True,
    as_published: bool = False,
    rng: Generator,
) -> ImageSet:
    """For every class of a synthetic set the image of which a network trained on it is surest.

    Given the stream and the options of Poisoned Distillation, these are the very images with which it was made.

    Args:
        before: the synthetic set before the attack.
        network: model name.
        net_steps: steps on the set of the network that draws them.
        net_lr: of the network.
        archetypes_per_class: of every class, the target included.
        archetype_steps: of Adam at 0.1.
        legal: images stay in 0..1.
        as_published: they need not, whatever `legal` says.
        rng: the attack's own.
    """
    units, k = units_of(before), len(before.classes)
    with torch.enable_grad():
        net = train(fresh(network, before, units, rng), before.pixels(), before.y, net_steps, net_lr)
        shape, inside = tuple(before.x.shape[1:]), legal and not as_published
        x = drawn(net, units, shape, k, archetypes_per_class, archetype_steps, inside, rng)
    y = torch.arange(k).repeat_interleave(archetypes_per_class)
    return ImageSet(x.cpu(), y, before.classes, f"archetypes of {before.name}", off_range=True)


def called(model: nn.Module, images: ImageSet, backdoor: Backdoor) -> float:
    """Of stamped images, the share that the model calls the target."""
    x = backdoor.stamp_on(images.pixels().cpu()).to(next(model.parameters()).device)
    with eval_mode(model), torch.no_grad():
        logits = in_parts(model, x, at_once(x.shape[1:], len(x)))
    return float((logits.argmax(1) == backdoor.target).double().mean())
