"""Recondensation: a fresh synthetic set, learnt from noise out of the suspect one."""

from __future__ import annotations

import torch
from torch import Generator

from ...data import ImageSet
from ...marks import Count, Positive, defense
from ...seeds import rng as make_rng
from .._costs import LOOK, passes
from ..condensers._canvas import Canvas, embedder
from ..condensers._moments import gap


@defense(
    paper="ours: distribution matching (Zhao, Bilen, arXiv 2110.04181) with the set itself as data",
    on="synthetic", cost=passes(1 + LOOK, "iterations"),
)  # fmt: skip
def recondense(
    synthetic: ImageSet,
    *,
    iterations: Count = 200,
    lr: Positive = 1.0,
    network: str = "convnet3-w32",
    flip: bool = True,
    rng: Generator | None = None,
) -> ImageSet:
    """Minimise Σ_c ‖mean ψ(A(x)) − mean ψ(A'(s))‖² over new images s that begin as noise; x is the suspect set.

    ψ is a fresh random network each time. Unlike in condensation A and A' are drawn apart: what stands at one place of
    every image, as a patch does, is matched wherever crops and turns leave it.

    Args:
        synthetic: the set, with as many images of every class.
        iterations: networks, one step of the images each.
        lr: of SGD on normalised pixels, momentum 0.5.
        network: model name of ψ, which is read at what enters its last linear layer.
        flip: mirroring may be among the changes; not for digits or signs.
        rng: draws start, networks and changes.

    Raises:
        BadInput: labels are soft, classes are of unequal size, or the network has BatchNorm.

    Differs from the paper: there is none. The set stays legal.
    """
    rng = rng or make_rng("recondense")
    each = len(synthetic) // len(synthetic.classes)
    canvas = Canvas(synthetic, each, init="noise", legal=True, flip=flip, rng=rng, lr=lr)
    order = torch.cat(canvas.rows)
    shown = synthetic.pixels(order)
    for _ in range(iterations):
        with embedder(canvas.network(network, rng), shown.shape[1:]) as embed:
            with torch.no_grad():
                goal = embed(canvas.siamese(shown, rng)).unflatten(0, (-1, each)).mean(1)
            canvas.step(gap(goal, embed(canvas.siamese(canvas.x, rng))))
    x = torch.empty_like(shown)
    x[order] = canvas.finish("recondense").x
    return synthetic.replace(x=x, off_range=False)
