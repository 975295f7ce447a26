"""Improved distribution matching: several small images in each, and networks that have seen real ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet, as_8_bit
from ...errors import BadInput
from ...marks import Count, NonNegative, Positive, condenser
from ...models import resolve, taps
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import descend
from ._canvas import Canvas, Init
from ._moments import changed, gap, matching_cost, means

START = 3  # networks before the first iteration, as the released code has it
BATCH = 256  # real images in a step of a network


def _cost(options: dict[str, Any], n: int) -> float:
    """Of matching, and of the networks that learn in between."""
    return matching_cost(options, n) + options["iterations"] * options["trained"] * options["real_steps"] * BATCH


@condenser(paper="Zhao, Li, Qin, Yu, Improved Distribution Matching for Dataset Condensation, CVPR 2023", cost=_cost)
def idm(
    train: ImageSet,
    *,
    images_per_class: Count = 1,
    factor: Count = 2,
    iterations: Count = 20000,
    lr: Positive = 0.2,
    batch_real: Count = 256,
    ce: NonNegative = 0.5,
    queue: Count = 100,
    every: Count = 30,
    trained: Count = 2,
    real_steps: Count = 10,
    net_lr: Positive = 0.01,
    init: Init = "real",
    network: str = "convnet3",
    flip: bool = True,
    legal: bool = False,
    rng: Generator | None = None,
) -> ImageSet:
    """Minimise Σ_c ‖mean ψ(A(x)) − mean ψ(A(s))‖² + ce·a·CE(A(s), c), ψ a network of a queue.

    a is its accuracy on the images that it has learnt from, in per cent, as the released code has it; s are the factor²
    parts of each image, enlarged to its size. After each step `trained` networks of the queue learn from real images;
    every `every` steps a fresh one joins, and the oldest leaves when there are more than `queue`.

    Args:
        train: real images.
        images_per_class: of every class, before they are cut into parts.
        factor: parts along each side; the sides must be divisible by it.
        iterations: steps of the images.
        lr: of SGD on normalised pixels, momentum 0.5.
        batch_real: real images of a class in a step; the released commands take 5,000 at one image a class.
        ce: weight of the classes' term; the released commands take 0.1 at 50 images a class.
        queue: networks at most.
        every: steps between two fresh networks; the released commands take 5 at one image a class.
        trained: networks that learn after a step.
        real_steps: of each of them, on 256 real images.
        net_lr: of SGD, momentum 0.9, weight decay 5e-4.
        init: start from "real" images or from "noise".
        network: model name of ψ, which is read at what enters its last linear layer.
        flip: mirroring may be among the changes A; not for digits or signs.
        legal: keep pixels in 0..1, 8 bits at the end; the paper's are free.
        rng: draws start, networks, batches and changes.

    Returns:
        The enlarged parts, factor² · images_per_class of every class: what a network is trained on.

    Raises:
        BadInput: sides that `factor` does not divide, a class with too few images, soft labels, or BatchNorm.

    Differs from the paper: `legal`. Differs from the released code: all classes share a step of the images; changes are
    drawn from `rng`; and no set is chosen by its accuracy on test images.
    """
    rng = rng or make_rng("idm")
    if any(side % factor for side in train.x.shape[2:]):
        raise BadInput(f"factor={factor} does not divide {train.x.shape[2]}×{train.x.shape[3]}. Give one that does.")
    canvas = Canvas(train, images_per_class, init=init, legal=legal, flip=flip, rng=rng, lr=lr)
    each = factor**2 * images_per_class
    if init == "real":
        real = torch.cat([x.repeat(-(-each // len(x)), 1, 1, 1)[:each] for x in canvas.real(each, rng)])
        with torch.no_grad():
            canvas.z.copy_(canvas.normalize(_joined(real, factor)))
    nets = [_Learner(canvas.network(network, spawn(rng)), net_lr) for _ in range(START)]
    (place,) = resolve(nets[0].net, "embedding", train.x.shape[1:])
    y = canvas.y.repeat_interleave(factor**2)
    for i in range(iterations):
        if i % every == 0:
            nets = [*nets, _Learner(canvas.network(network, spawn(rng)), net_lr)][-queue:]
        one = nets[int(torch.randint(len(nets), (), generator=rng))]
        shown, changes = canvas.real(batch_real, rng), canvas.changes(rng)
        with taps(one.net, [place]) as read:
            goal = means(lambda x: read(x).features[place], shown, changes)  # noqa: B023 - called at once
            logits, features = read(changed(_parts(canvas.x, factor).split(each), changes))
        told = F.cross_entropy(logits, y, reduction="sum")
        canvas.step(gap(goal, features[place]) + ce * one.accuracy * each**-1 * told)
        for k in torch.randperm(len(nets), generator=rng)[:trained].tolist():
            for _ in range(real_steps):
                rows = torch.randint(len(train), (BATCH,), generator=rng).to(train.x.device)
                nets[k].learn(train.pixels(rows), train.y[rows])
    made = canvas.finish("idm", augment=canvas.siamese)
    parts = _parts(made.x, factor)
    return made.replace(x=as_8_bit(parts) if legal else parts, y=y, index=torch.arange(len(y)))


class _Learner:
    """A network of the queue, its solver, and how often it was right on the images that it learnt from, in per cent."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        self.net, self.right, self.asked = net, 0, 0
        self.solver = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)

    @property
    def accuracy(self) -> float:
        return 100 * self.right / max(self.asked, 1)

    def learn(self, x: Tensor, y: Tensor) -> None:
        logits = self.net(x)
        descend(self.solver, F.cross_entropy(logits, y))
        self.right, self.asked = self.right + int((logits.argmax(1) == y).sum()), self.asked + len(y)


def _parts(x: Tensor, factor: int) -> Tensor:
    """[n,C,H,W] → [n·factor²,C,H,W]: the parts of each image, enlarged."""
    n, c, h, w = x.shape
    cut = x.view(n, c, factor, h // factor, factor, w // factor).permute(0, 2, 4, 1, 3, 5)
    return F.interpolate(cut.reshape(-1, c, h // factor, w // factor), (h, w), mode="bilinear", align_corners=False)


def _joined(x: Tensor, factor: int) -> Tensor:
    """[n·factor²,C,H,W] → [n,C,H,W]: images made smaller, as the parts of larger ones."""
    _, c, h, w = x.shape
    small = F.interpolate(x, (h // factor, w // factor), mode="bilinear", align_corners=False)
    tiles = small.view(-1, factor, factor, c, h // factor, w // factor).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(-1, c, h, w)
