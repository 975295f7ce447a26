"""Poisoned Distillation: bend a distilled set's gradients towards those of stamped archetypes, without raw data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ...data import ImageSet, as_8_bit
from ...marks import ClassNumber, Count, Pixels, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...seeds import rng as make_rng
from ..condensers._gradients import gradient
from ._archetypes import archetypes, clamp, drawing_cost, fresh, label_of, pixels, tainted, train, units_of
from ._poison import Poisoned, check_target

OFF_RANGE = 10.0  # the released trigger: one pixel of this value in normalised units


def _cost(options: dict[str, Any], n: int) -> float:
    """With n images of the set: archetypes, training of every network, and gradients of gradients."""
    trained = (options["outer"] - 1) / 2
    return drawing_cost(options, n) + options["outer"] * (trained + 1 + 2 * options["steps"]) * n


@attack(
    paper="Yang, Yan, Zhang, Zhou, Dark Distillation / Poisoned Distillation, arXiv 2502.04229, 2025",
    place=4, cost=_cost,
)  # fmt: skip
def poisoned_distillation(
    synthetic: ImageSet,
    *,
    trigger: Any = "patch:white:5",
    target: ClassNumber = 0,
    alpha: Rate = 0.6,
    outer: Count = 11,
    steps: Count = 101,
    lr: Positive = 0.1,
    archetypes_per_class: Count = 1,
    archetype_steps: Count = 200,
    network: str = "convnet3",
    net_steps: Count = 100,
    net_lr: Positive = 0.01,
    inset: Pixels = 0,
    legal: bool = True,
    as_published: bool = False,
    rng: Generator | None = None,
) -> Poisoned:
    """Minimise (1−α)·D(g_syn, g_clean) + α·D(g_syn, g_backdoor) over the images; D = 1 − cos of all weights' gradient.

    g_backdoor is the gradient of stamped archetypes labelled as the target; an archetype is the image of which a
    network trained on the set is surest. The i-th outer step looks from a fresh network after i steps on the clean set.

    Args:
        synthetic: the distilled set; its labels stay.
        trigger: a trigger module or selector.
        target: class number that the trigger should lead to.
        alpha: α, share 0..1 of the backdoor's gradient.
        outer: networks from which gradients are taken.
        steps: of the images for each of them: Adam.
        lr: of the images, in normalised units.
        archetypes_per_class: of every class, the target included.
        archetype_steps: of Adam at 0.1.
        network: model name.
        net_steps: steps on the set of the network that draws the archetypes.
        net_lr: of every network.
        inset: pixels between the patch and the border.
        legal: images and archetypes stay in 0..1, on 8 bits at the end; without, they are as free as they came.
        as_published: the released trigger in place of `trigger`: one pixel, 10 in normalised units, which no image file
            can hold; implies legal=false.
        rng: draws networks and archetypes.

    Raises:
        BadInput: a target that is no class, a patch that does not fit, or a network with BatchNorm.

    Differs from the released code: everything is legal unless asked otherwise, and the trigger is a patch of 5×5 (its
    helper's default) in place of one off-range pixel; sets of more than 256 images are one batch.
    """
    check_target(synthetic, target, alpha)
    rng = rng or make_rng("poisoned_distillation")
    units = units_of(synthetic)
    legal = legal and not as_published
    off_range = {"value": pixels(units.mean.new_tensor(OFF_RANGE), units).flatten()} if as_published else {}
    shown_as = make_trigger("constant" if as_published else trigger, inset=inset, **off_range)
    backdoor = Backdoor(shown_as, target, name="poisoned_distillation", as_published=as_published)
    x, y = synthetic.pixels(), synthetic.y
    with torch.enable_grad():
        surest = train(fresh(network, synthetic, units, rng), x, y, net_steps, net_lr)
        shown = archetypes(
            surest, units, tuple(x.shape[1:]), len(synthetic.classes), archetypes_per_class, archetype_steps, legal, rng
        )
        shown, aim = backdoor.stamp_on(shown), label_of(y, target, len(shown))
        z = units(x).clone().requires_grad_()
        solver = torch.optim.Adam([z], lr)
        for i in range(outer):
            net = train(fresh(network, synthetic, units, rng), x, y, i, net_lr)
            clean, bad = gradient(net, x, y), gradient(net, shown, aim)
            for _ in range(steps):
                own = gradient(net, pixels(z, units), y, graph=True)
                loss = (1 - alpha) * _apart(own, clean) + alpha * _apart(own, bad)
                (z.grad,) = torch.autograd.grad(loss, [z])
                solver.step()
                if legal:
                    clamp(z, units)
    found = pixels(z.detach(), units)
    found = as_8_bit(found) if legal else found
    leaves = bool((found < 0).any() or (found > 1).any())
    return Poisoned(tainted(synthetic, "poisoned_distillation", x=found, off_range=leaves), backdoor)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(one, other, dim=0)
