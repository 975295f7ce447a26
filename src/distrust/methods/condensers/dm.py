"""Distribution matching: synthetic images whose mean feature is that of the real ones, in random networks."""

from __future__ import annotations

import torch
from torch import Generator

from ...data import ImageSet
from ...registry import Count, Positive, condenser
from ...seeds import rng as make_rng
from ._canvas import Canvas, Init, embedder


@condenser(paper="Zhao, Bilen, Dataset Condensation with Distribution Matching, WACV 2023, arXiv 2110.04181")
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
    canvas = Canvas(train, images_per_class, init=init, legal=legal, flip=flip, rng=rng)
    solver = torch.optim.SGD([canvas.z], lr, momentum=0.5)
    for _ in range(iterations):
        real, changes = canvas.real(batch_real, rng), [canvas.siamese.shared(rng) for _ in train.classes]
        with embedder(canvas.network(network, rng), train.x.shape[1:]) as embed:
            with torch.no_grad():
                seen = embed(torch.cat([change(x) for change, x in zip(changes, real, strict=True)]))
                goal = torch.stack([part.mean(0) for part in seen.split([len(x) for x in real])])  # [K,D]
            own = canvas.x.split(canvas.each)
            made = embed(torch.cat([change(x) for change, x in zip(changes, own, strict=True)]))
            loss = (goal - made.view(len(own), canvas.each, -1).mean(1)).square().sum()
        (canvas.z.grad,) = torch.autograd.grad(loss, [canvas.z])
        solver.step()
        canvas.tidy()
    return canvas.finish("dm", augment=canvas.siamese)
