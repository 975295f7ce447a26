"""Distribution matching: synthetic images whose mean feature is that of the real ones, in random networks."""

from __future__ import annotations

from torch import Generator

from ...data import ImageSet
from ...marks import Count, Positive, condenser
from ...seeds import rng as make_rng
from ._canvas import Canvas, Init, embedder
from ._moments import changed, gap, matching_cost, means


@condenser(
    paper="Zhao, Bilen, Dataset Condensation with Distribution Matching, WACV 2023, arXiv 2110.04181",
    cost=matching_cost,
)
def dm(
    train: ImageSet,
    *,
    images_per_class: Count = 1,
    iterations: Count = 20000,
    lr: Positive = 1.0,
    batch_real: Count = 256,
    init: Init = "real",
    network: str = "convnet3",
    flip: bool = True,
    legal: bool = False,
    rng: Generator | None = None,
) -> ImageSet:
    """Minimise Σ_c ‖mean ψ(A(x)) − mean ψ(A(s))‖² over the synthetic images s, ψ a fresh random network each time.

    Args:
        train: real images.
        images_per_class: of every class.
        iterations: networks, one step of the images each.
        lr: of SGD on normalised pixels, momentum 0.5; the released code takes 10 from 100 images per class on.
        batch_real: real images of a class in a step.
        init: start from "real" images or from "noise".
        network: model name of ψ, which is read at what enters its last linear layer.
        flip: mirroring may be among the changes A; not for digits or signs.
        legal: keep pixels in 0..1, 8 bits at the end; the paper's are free.
        rng: draws start, networks, batches and changes.

    Raises:
        BadInput: a class has too few images, labels are soft, or the network has BatchNorm.

    Differs from the paper: `legal`. Differs from the released code: every change is drawn from `rng`, not from a clock.
    """
    rng = rng or make_rng("dm")
    canvas = Canvas(train, images_per_class, init=init, legal=legal, flip=flip, rng=rng, lr=lr)
    for _ in range(iterations):
        real, changes = canvas.real(batch_real, rng), canvas.changes(rng)
        with embedder(canvas.network(network, rng), train.x.shape[1:]) as embed:
            canvas.step(gap(means(embed, real, changes), embed(changed(canvas.by_class, changes))))
    return canvas.finish("dm", augment=canvas.siamese)
