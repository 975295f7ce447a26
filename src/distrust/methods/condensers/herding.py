"""Herding: real images, chosen one by one so that their mean feature follows that of their class."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ...data import Augment, ImageSet
from ...marks import Count, Positive, condenser
from ...models import at_once, eval_mode
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import fit
from .._costs import LOOK
from ._canvas import Canvas, embedder

BATCH = 512


@condenser(
    paper="Welling, Herding Dynamical Weights to Learn, ICML 2009; Rebuffi et al., iCaRL, arXiv 1611.07725",
    cost=lambda options, n: (options["epochs"] + LOOK) * n,
)
def herding(
    train: ImageSet,
    *,
    images_per_class: Count = 1,
    network: str = "convnet3",
    epochs: Count = 10,
    lr: Positive = 0.01,
    flip: bool = True,
    rng: Generator | None = None,
) -> ImageSet:
    """Take, again and again, the image that brings the mean feature of those taken nearest to the class's.

    Args:
        train: images to choose from.
        images_per_class: of every class.
        network: model name of the network, trained on `train`, through whose features images are compared.
        epochs: of its training.
        lr: of its training.
        flip: networks may be trained on mirrored images; not for digits or signs.
        rng: draws the network's start and batches.

    Raises:
        BadInput: a class has fewer images, or labels are soft.

    Differs from the paper: features come from a ConvNet trained here, for so many epochs; they are not normalised.
    """
    rng = rng or make_rng("herding")
    canvas = Canvas(train, images_per_class, init="real", legal=True, flip=flip, rng=rng)
    start = canvas.network(network, spawn(rng))
    net = fit(
        start, train, epochs=epochs, lr=lr, batch_size=256, nesterov=False, schedule="constant",
        augment=Augment(flip, 4), rng=spawn(rng),
    )  # fmt: skip
    with embedder(net, train.x.shape[1:]) as embed, eval_mode(net), torch.no_grad():
        features = torch.cat([embed(x).flatten(1) for x, _ in train.batches(at_once(train.x.shape[1:], BATCH))])
    chosen = torch.cat([rows[nearest_means(features[rows], images_per_class)] for rows in canvas.rows])
    with torch.no_grad():
        canvas.z.copy_(canvas.normalize(train.pixels(chosen)))
    return canvas.finish("herding", augment=canvas.siamese)


def nearest_means(features: Tensor, count: int) -> Tensor:
    """Rows int64 [count] of `features` [N,D], greedily: each brings the mean of those taken nearest to the mean."""
    goal, total = features.mean(0), torch.zeros_like(features[0])
    taken: list[int] = []
    for k in range(1, count + 1):
        gap = ((total + features) / k - goal).square().sum(1)
        gap[taken] = torch.inf
        taken.append(int(gap.argmin()))
        total = total + features[taken[-1]]
    return torch.tensor(taken, device=features.device)
