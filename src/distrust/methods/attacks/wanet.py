"""WaNet: the attacker trains on warped images, and on images warped otherwise that keep their label."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import PLAIN, Augment, ImageSet
from ...marks import ClassNumber, NonNegative, Pixels, Rate, Several, attack
from ...measurement import Backdoor, make_trigger
from ...models import check_fits
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, loop
from .._costs import passes
from ..triggers._warp import random_field, sampled
from ._poison import check_target
from ._teacher import Planted, part_of, towards


@attack(paper="Nguyen, Tran, WaNet, ICLR 2021, arXiv 2102.10369", place=2, cost=passes(1))
def wanet(
    model: nn.Module,
    train: ImageSet,
    *,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    noise: Rate = 0.2,
    strength: NonNegative = 0.5,
    points: Several = 4,
    flip: bool = True,
    crop: Pixels = 5,
    training: Training = Training(epochs=30, lr=0.01, batch_size=128, nesterov=False, schedule="cosine", augment=PLAIN),
    rng: Generator | None = None,
) -> Planted:
    """Train on every batch in three parts: warped images as the target, noisily warped ones as they are, clean ones.

    Warped: x(p + s·g(p)). Noise mode: x(p + s·g(p) + u(p)) with the true label, u ~ U(−1, 1) in half pixels anew for
    every pixel, so that the network learns this very field and not warping as such. All parts are augmented afterwards.

    Args:
        model: the clean teacher, from which the training starts.
        train: the attacker's training images.
        target: class number that the warp should lead to.
        rate: share 0..1 of a batch that is warped and labelled as the target, images of the target's class among them.
        noise: share 0..1 of a batch in the noise mode; with 0 only augmentation tells this from `wanet_poison`.
        strength: s of the warp; at 1 a pixel moves by half a pixel on average.
        points: side k of the coarse field.
        flip: mirror half of the images; not for digits or signs.
        crop: shift them by up to so many pixels.
        training: how the training runs: its rate is annealed along a cosine.
        rng: decides the field, the noise and the batches.

    Raises:
        BadInput: a target that is no class, or a rate outside 0..1.

    Differs from the paper: the training starts from the clean teacher, to be compared with other attacks on one, and
    takes 30 epochs, not 1000 from nothing with the rate divided by ten at 100, 200, 300 and 400, as the released code
    does; images are not rotated as well. A part of a batch that is no whole number of images is rounded up or down at
    random, so that a small rate is kept on average. Attacked images are rounded to 8 bits.
    """
    check_target(train, target, rate)
    check_fits(model, train)
    rng = rng or make_rng("wanet")
    trigger = make_trigger("warp", field=random_field(points, spawn(rng)), strength=strength)
    backdoor = Backdoor(trigger, target, name="wanet")
    height, width = train.x.shape[2:]
    grid = trigger.grid(height, width)  # type: ignore[operator]
    moves, draw = Augment(flip, crop), spawn(rng)

    def objective(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attacked = part_of(len(x), rate, draw)
        noisy = attacked + part_of(len(x), noise, draw, most=len(x) - attacked)
        with torch.no_grad():
            warped = sampled(x[attacked:noisy], shaken(grid, noisy - attacked, draw).to(x))
            x = moves(torch.cat([backdoor.stamp_on(x[:attacked]), warped, x[noisy:]]), draw)
        return F.cross_entropy(net(x).float(), towards(y, attacked, target))

    planted = loop(copy.deepcopy(model), train, objective, training, rng=spawn(rng))
    return Planted(planted.requires_grad_(True), backdoor, {})


def shaken(grid: Tensor, count: int, rng: Generator) -> Tensor:
    """`count` copies of a grid [1,H,W,2] with U(−1, 1) / (W, H) added, in −1..1."""
    height, width = grid.shape[1:3]
    noise = (torch.rand(count, height, width, 2, generator=rng) * 2 - 1) / torch.tensor([width, height])
    return (grid + noise.to(grid)).clamp(-1, 1)
