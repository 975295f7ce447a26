"""Gradient matching: synthetic images on which networks get the gradients that real images give them."""

from __future__ import annotations

from torch import Generator

from ...data import ImageSet
from ...marks import Count, Positive, condenser
from ...seeds import rng as make_rng
from ._canvas import Canvas, Init
from ._gradients import loops, match, matching_cost


@condenser(
    paper="Zhao, Mopuri, Bilen, Dataset Condensation with Gradient Matching, ICLR 2021, arXiv 2006.05929",
    cost=matching_cost,
)
def dc(
    train: ImageSet,
    *,
    images_per_class: Count = 1,
    iterations: Count = 1000,
    outer: Count | None = None,
    inner: Count | None = None,
    lr: Positive = 0.1,
    net_lr: Positive = 0.01,
    batch_real: Count = 256,
    init: Init = "noise",
    network: str = "convnet3",
    legal: bool = False,
    rng: Generator | None = None,
) -> ImageSet:
    """Minimise Σ_c D(∇θ L_c(s), ∇θ L_c(x)) over the synthetic images s, in networks θ that are trained on s meanwhile.

    D adds 1 − cos over the output rows of every layer; every network starts at random.

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
        legal: keep pixels in 0..1, 8 bits at the end; the paper's are free.
        rng: draws start, networks, batches and changes.

    Raises:
        BadInput: a class has too few images, labels are soft, or the network has BatchNorm.

    Differs from the paper: `legal`; networks with BatchNorm, whose statistics the released code freezes, are refused.
    """
    rng = rng or make_rng("dc")
    outer, inner = loops(images_per_class, outer, inner)
    canvas = Canvas(train, images_per_class, init=init, legal=legal, flip=True, rng=rng, lr=lr)
    match(
        canvas, iterations=iterations, outer=outer, inner=inner, batch_real=batch_real, network=network,
        net_lr=net_lr, siamese=False, rng=rng,
    )  # fmt: skip
    return canvas.finish("dc", epochs=300)
