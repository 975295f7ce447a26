"""Gradient matching through differentiable Siamese augmentation."""

from __future__ import annotations

from torch import Generator

from ...data import ImageSet
from ...marks import Count, Positive, condenser
from ...seeds import rng as make_rng
from ._canvas import Canvas, Init
from ._gradients import loops, match, matching_cost


@condenser(
    paper="Zhao, Bilen, Condensation with Differentiable Siamese Augmentation, ICML 2021, arXiv 2102.08259",
    cost=matching_cost,
)
def dsa(
    train: ImageSet,
    *,
    images_per_class: Count = 1,
    iterations: Count = 1000,
    outer: Count | None = None,
    inner: Count | None = None,
    lr: Positive = 0.1,
    net_lr: Positive = 0.01,
    batch_real: Count = 256,
    init: Init = "real",
    network: str = "convnet3",
    flip: bool = True,
    legal: bool = False,
    rng: Generator | None = None,
) -> ImageSet:
    """As `dc`, with one random change A, shared by real and synthetic images: D(∇θ L(A(s)), ∇θ L(A(x))).

    D adds 1 − cos over the output rows of every layer.

    Args:
        train: real images.
        images_per_class: of every class.
        iterations: random networks.
        outer: steps of the images for each network (default: as released, by images per class).
        inner: epochs of the network on the images between two of them (default: likewise).
        lr: of the images, in normalised pixels: SGD, momentum 0.5.
        net_lr: of the network: plain SGD.
        batch_real: real images of a class in a step.
        init: start from "real" images or from "noise".
        network: model name.
        flip: mirroring may be among the changes; not for digits or signs.
        legal: keep pixels in 0..1, 8 bits at the end; the paper's are free.
        rng: draws start, networks, batches and changes.

    Raises:
        BadInput: a class has too few images, labels are soft, or the network has BatchNorm.

    Differs from the paper: `legal`; networks with BatchNorm, whose statistics the released code freezes, are refused.
    """
    rng = rng or make_rng("dsa")
    outer, inner = loops(images_per_class, outer, inner)
    canvas = Canvas(train, images_per_class, init=init, legal=legal, flip=flip, rng=rng, lr=lr)
    match(
        canvas, iterations=iterations, outer=outer, inner=inner, batch_real=batch_real, network=network,
        net_lr=net_lr, siamese=True, rng=rng,
    )  # fmt: skip
    return canvas.finish("dsa", augment=canvas.siamese)
