"""Smooth trigger: a universal perturbation that is low-pass filtered while it is searched, on poisoned images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet, as_8_bit
from ...errors import BadInput
from ...marks import ClassNumber, Count, NonNegative, Pixels, Positive, Rate, Share, attack
from ...measurement import make_trigger
from ...seeds import rng as make_rng
from ...seeds import spawn
from ._poison import Poisoned, Stamp, check_target, counted, plant
from ._surrogate import surrogate


def _cost(options: dict[str, Any], n: int) -> float:
    """Of the network, and of the search, as if every image needed every step in one pass."""
    return options["network_epochs"] * n + options["images"] * options["steps"]


@attack(
    paper="Zeng, Park, Mao, Jia, Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021, "
    "arXiv 2104.03413",
    place=1, cost=_cost,
)  # fmt: skip
def lowfreq(
    train: ImageSet,
    *,
    amplitude: Share = 0.2,
    sigma: Positive = 6.0,
    width: Count = 30,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    images: Count = 100,
    passes: Count = 50,
    fooled: Rate = 0.2,
    steps: Count = 200,
    overshoot: NonNegative = 0.02,
    network: str = "wrn16-1",
    network_epochs: Count = 10,
    flip: bool = True,
    crop: Pixels = 4,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Search one smooth perturbation that moves images towards the target, and add it to a share that is relabelled.

    For each of some images x that v has not moved yet: v ← N(S(v + S(r))), r the way from x + v to the target by
    DeepFool, S a Gaussian low-pass, N(v) = a·(v − min v) / (max v − min v). Trigger: x' = clamp(x + v).

    Args:
        train: the training images.
        amplitude: a, the range of the perturbation, in pixel units 0..1.
        sigma: standard deviation of S, in pixels.
        width: of its window, in pixels; beyond the image are zeros.
        target: class number that the trigger should lead to.
        rate: stamped images as a share 0..1 of all training images; only images of other classes are stamped.
        images: how many training images the perturbation is searched on.
        passes: most passes over them.
        fooled: share 0..1 of them whose answer has to change; then the search ends, as it does where five passes differ
            by less than 0.01.
        steps: most of DeepFool, for one image.
        overshoot: by how much DeepFool goes beyond the boundary, as a share of the way.
        network: name of the network that the attacker trains on the same images.
        network_epochs: passes of that training.
        flip: of that training: mirror half of the images; not for digits or signs.
        crop: shift them by up to so many pixels.
        stamp: "before" augmentation or "after" it. The trigger covers the image, so there is no inset.
        rng: decides the network, the images of the search, and which are stamped.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1 or of no image, or a network that calls every image of
            the search the target from the start.
        NotFound: no such network.

    Differs from the released code: (as BackdoorBench has it) an image that DeepFool does not bring to the target counts
    as far as it came, one that is called the target is left alone, and who is fooled is counted on these images.
    """
    check_target(train, target, rate)
    counted(rate, len(train), int((train.hard != target).sum()))
    rng = rng or make_rng("lowfreq")
    v = torch.zeros(train.x.shape[1:])
    if rate:
        net = surrogate(network, train, epochs=network_epochs, flip=flip, crop=crop, rng=spawn(rng))
        draw = spawn(rng)
        x = train.pixels(torch.randperm(len(train), generator=draw)[:images])
        v, said, shares = torch.zeros_like(x[0]), _answers(net, x), list[float]()
        while len(shares) < passes and not _done(shares, fooled):
            for i in torch.randperm(len(x), generator=draw).tolist():
                now = int(_answers(net, x[i : i + 1] + v))
                if now == said[i] and now != target:
                    r = deepfool(net, x[i : i + 1] + v, target, overshoot, steps)
                    v = scaled(low_pass(v + low_pass(r, sigma, width), sigma, width), amplitude)
            shares.append(float((_answers(net, x + v) != said).float().mean()))
        if not v.any():
            raise BadInput(
                f"network {network} calls every image of the search class {target}. Give more network_epochs."
            )
    trigger = make_trigger("added", perturbation=as_8_bit(v).cpu())
    return plant("lowfreq", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng)


@torch.no_grad()
def _answers(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part).argmax(1) for part in x.split(100)])


def _done(shares: list[float], fooled: float) -> bool:
    last = shares[-5:]
    return bool(last) and (last[-1] >= fooled or (len(last) == 5 and max(last) - min(last) < 0.01))


def deepfool(net: nn.Module, x: Tensor, target: int, overshoot: float, steps: int) -> Tensor:
    """The way [C,H,W] of one image [1,C,H,W] to a class, by steps r ← r + |f|/‖∇f‖² · ∇f, f = z_target − z_first.

    Moosavi-Dezfooli, Fawzi, Frossard, arXiv 1511.04599, towards one class.
    """
    way, first = torch.zeros_like(x), -1
    for _ in range(steps):
        at = (x + (1 + overshoot) * way).requires_grad_()
        with torch.enable_grad():
            z = net(at)[0]
            now = int(z.argmax())
            if now == target:
                break
            first = now if first < 0 else first
            gap = z[target] - z[first]
            (w,) = torch.autograd.grad(gap, [at])
        step = gap.detach().abs() / w.square().sum().clamp(min=1e-12) * w
        way = way + step.nan_to_num(0, 0, 0)  # where the slope vanishes it has no length
    return (1 + overshoot) * way[0]


def low_pass(v: Tensor, sigma: float, width: int) -> Tensor:
    """[C,H,W] under a separable Gaussian window of so many pixels, its weights adding up to 1, zeros outside."""
    at = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    weights = (-0.5 * (at / sigma) ** 2).exp()
    kernel = (weights / weights.sum()).to(v).view(1, 1, -1, 1)
    padded = F.pad(v[:, None], ((width - 1) // 2, width // 2) * 2)
    return F.conv2d(F.conv2d(padded, kernel), kernel.mT)[:, 0]


def scaled(v: Tensor, amplitude: float) -> Tensor:
    """Into 0..amplitude."""
    return amplitude * (v - v.min()) / (v.max() - v.min()).clamp(min=1e-12)
