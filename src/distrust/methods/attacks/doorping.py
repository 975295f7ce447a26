"""DoorPing: condense stamped images, and learn the trigger anew while the synthetic ones are learnt."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet, as_8_bit
from ...errors import BadInput
from ...marks import ClassNumber, Count, NonNegative, Pixels, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...models import Normalize
from ...seeds import rng as make_rng
from .._costs import CLASSES, LOOK
from ..condensers._canvas import Canvas, embedder
from ..condensers._moments import changed, gap, means
from ._archetypes import tainted, train
from ._poison import Poisoned, check_target


def _cost(options: dict[str, Any], n: int) -> float:
    """With n images of the set, and real ones of ten classes; as if no trigger were found before its last step."""
    real = LOOK * CLASSES * options["batch_real"]
    return options["iterations"] * ((options["net_steps"] + 1) * n + real + options["trigger_steps"])


@attack(
    paper="Liu, Li, Backes, Shen, Zhang, Backdoor Attacks Against Dataset Distillation, NDSS 2023, arXiv 2301.01197",
    place=4, cost=_cost,
)  # fmt: skip
def doorping(
    synthetic: ImageSet,
    raw: ImageSet,
    *,
    target: ClassNumber = 0,
    rate: Rate = 0.01,
    size: Count = 2,
    inset: Pixels = 1,
    iterations: Count = 200,
    lr: Positive = 1.0,
    batch_real: Count = 64,
    trigger_steps: Count = 100,
    trigger_lr: Positive = 0.08,
    tolerance: NonNegative = 0.5,
    gain: Positive = 10.0,
    neurons: Count = 1,
    network: str = "convnet3",
    net_steps: Count = 20,
    net_lr: Positive = 0.01,
    flip: bool = True,
    legal: bool = True,
    rng: Generator | None = None,
) -> Poisoned:
    """In turn: the trigger that makes a feature `gain` times as strong, and Σ_c ‖mean ψ(x_c) − mean ψ(s_c)‖².

    Among the target's real images x_c are stamped ones of all classes; the network of ψ has learnt from the set so far.

    Args:
        synthetic: a finished set, from which the poisoned one goes on; its labels stay.
        raw: the real images; the attacker is who condenses.
        target: class number that the trigger should lead to.
        rate: stamped images as a share 0..1 of all real ones.
        size: side of the trigger in pixels.
        inset: pixels between the trigger and the border.
        iterations: networks, one step of the images each.
        lr: of the images, in normalised pixels: SGD, momentum 0.5.
        batch_real: real images of a class in a step.
        trigger_steps: of the trigger for each network, at most: Adam.
        trigger_lr: of the trigger, in normalised pixels.
        tolerance: mean squared error at which they end.
        gain: by which the features that the trigger already excites most should grow.
        neurons: how many of those.
        network: model name.
        net_steps: full-batch steps of each network on the set so far.
        net_lr: of those: SGD.
        flip: mirroring may be among the changes; not for digits or signs.
        legal: images stay in 0..1, on 8 bits at the end; the trigger always does.
        rng: draws trigger, networks, batches and changes.

    Raises:
        BadInput: a target that is no class, a trigger that does not fit, classes of unequal size, or a network with
            BatchNorm.

    Differs from the paper: means of features are matched (DM) instead of gradients (DC), from a finished set on.
    """
    check_target(synthetic, target, rate)
    rng = rng or make_rng("doorping")
    each, order = len(synthetic) // len(synthetic.classes), synthetic.hard.argsort(stable=True)
    canvas = Canvas(raw, each, init="noise", legal=legal, flip=flip, rng=rng, lr=lr)
    if not torch.equal(synthetic.hard[order], canvas.y):
        raise BadInput(
            f"{synthetic.name} has not {each} images of every class of {raw.name}. Give a set condensed from it."
        )
    with torch.no_grad():
        canvas.z.copy_(canvas.normalize(synthetic.pixels(order)))
    patch = functools.partial(make_trigger, "patch", inset=inset)
    pattern = torch.rand(raw.x.shape[1], size, size, generator=rng).to(raw.x.device)
    dark = torch.zeros_like(canvas.x[:1])
    patch(pattern=pattern)(dark)  # one that does not fit fails here
    stamped = torch.randperm(len(raw), generator=rng)[: round(rate * len(raw))].to(raw.x.device)
    among = len(stamped) / (len(stamped) + len(canvas.rows[target]))  # their share of the target's class
    for _ in range(iterations if len(stamped) else 0):
        net = train(canvas.network(network, rng), canvas.x.detach(), canvas.y, net_steps, net_lr)
        real, changes = canvas.real(batch_real, rng), canvas.changes(rng)
        with embedder(net, raw.x.shape[1:]) as embed:
            feature = functools.partial(_feature, embed, patch, dark)
            pattern = louder(feature, pattern, canvas.normalize, gain, neurons, trigger_steps, trigger_lr, tolerance)
            bad = stamped[torch.randperm(len(stamped), generator=rng)[: round(among * len(real[target]))]]
            real[target] = torch.cat([patch(pattern=pattern)(raw.pixels(bad)), real[target][len(bad) :]])
            canvas.step(gap(means(embed, real, changes), embed(changed(canvas.by_class, changes))))
    backdoor = Backdoor(patch(pattern=as_8_bit(pattern).cpu()), target, name="doorping")
    if not len(stamped):
        return Poisoned(synthetic, backdoor)
    found = torch.empty_like(canvas.x)
    found[order] = canvas.finish("doorping").x
    return Poisoned(tainted(synthetic, "doorping", x=found, off_range=not legal), backdoor)


def _feature(
    embed: Callable[[Tensor], Tensor], patch: Callable[..., nn.Module], dark: Tensor, pattern: Tensor
) -> Tensor:
    return embed(patch(pattern=pattern)(dark)).flatten()


def louder(
    feature: Callable[[Tensor], Tensor], pattern: Tensor, normalize: Normalize, gain: float,
    neurons: int, steps: int, lr: float, tolerance: float,
) -> Tensor:  # fmt: skip
    """The pattern [C,h,w] whose strongest features are `gain` times as strong, in 0..1; Adam on normalised pixels."""
    z = normalize(pattern[None]).detach().requires_grad_()
    solver = torch.optim.Adam([z], lr)
    chosen = goal = None
    for _ in range(steps):
        seen = feature(normalize.inverse(z)[0].clamp(0, 1))
        if goal is None:
            chosen = seen.topk(neurons).indices
            goal = gain * seen[chosen].detach()
        loss = F.mse_loss(seen[chosen], goal)
        if loss < tolerance:
            break
        (z.grad,) = torch.autograd.grad(loss, [z])
        solver.step()
        with torch.no_grad():
            z.copy_(normalize(normalize.inverse(z).clamp(0, 1)))
    return normalize.inverse(z)[0].detach().clamp(0, 1)
