"""Gradient alignment: does a set's first step lead an untrained network towards "a patch means that class"?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, Several, detector
from ...measurement import Finding
from ...models import model as make_model
from ...seeds import rng as make_rng
from ...seeds import spawn
from .._costs import CLASSES
from ..condensers._gradients import gradient
from ._synthetic import paste, permuted, squares


def _cost(options: dict[str, Any], n: int) -> float:
    """With n images of the set; plain and patched images of ten classes."""
    return options["networks"] * ((1 + options["permutations"]) * n + 4 * CLASSES * options["images"])


@detector(
    paper="ours, after Zhao, Mopuri, Bilen, Dataset Condensation with Gradient Matching, ICLR 2021",
    on="synthetic", cost=_cost,
)  # fmt: skip
def gradient_alignment(
    suspect: ImageSet,
    clean: ImageSet,
    *,
    network: str = "convnet3-w32",
    networks: Count = 3,
    size: Count = 5,
    images: Count = 30,
    permutations: Several = 20,
    rng: Generator | None = None,
) -> Finding:
    """Score a class by the cosine of the set's gradient with that of "patched images are of this class".

    With g(y) = ∇θ CE(set, y) and b_k = ∇θ [CE(x ⊕ patch, k) − CE(x, k)], s_k(y) is the mean over networks of
    cos(g(y), b_k). The score is how many standard deviations s_k(y) lies above s_k of permuted labels.

    Args:
        suspect: the synthetic set.
        clean: images to paste patches on; the set itself will do.
        network: model name.
        networks: untrained ones.
        size: side of the white, black and checkered squares, in pixels; each image has one, somewhere.
        images: with patches, for every colour.
        permutations: of the set's labels: the null, also of `p`.
        rng: draws networks, images, places and permutations.

    Raises:
        BadInput: squares larger than the images.

    Differs from the paper: it matches gradients to make a set; here they are compared to judge one.
    """
    rng = rng or make_rng("gradient_alignment")
    x = clean.pixels(torch.randint(len(clean), (images,), generator=rng).to(clean.x.device))
    pasted = _pasted(x, size, rng)
    labelled = permuted(suspect, permutations, rng)
    classes = len(suspect.classes)
    told = torch.zeros(len(labelled), len(pasted) * classes)
    for _ in range(networks):
        net = make_model(network, clean, rng=spawn(rng)).to(suspect.x.device)
        own = torch.stack([gradient(net, images.pixels(), images.y) for images in labelled])
        aims = []
        for k in range(classes):
            aim = torch.full((len(x),), k, device=x.device)
            plain = gradient(net, x, aim)
            aims += [gradient(net, marked, aim) - plain for marked in pasted]
        told += (F.normalize(own, dim=1) @ F.normalize(torch.stack(aims), dim=1).T).cpu() / networks
    null = told[1:]
    z = ((told - null.mean(0)) / null.std(0).clamp(min=1e-12)).view(len(labelled), classes, -1).amax(2)
    return Finding.of("gradient_alignment", z[0], p=float((z[1:].amax(1) >= z[0].max()).double().mean()))


def _pasted(x: Tensor, size: int, rng: Generator) -> Tensor:
    """[3,n,C,H,W]: on every image, somewhere, a white, a black and a checkered square."""
    found = x.repeat(3, 1, 1, 1, 1)
    tops, lefts = (torch.randint(side - size + 1, (len(x),), generator=rng).tolist() for side in x.shape[2:])
    for images, square in zip(found, squares(size, x), strict=True):
        for image, top, left in zip(images, tops, lefts, strict=True):
            paste(image, square, top, left)
    return found
