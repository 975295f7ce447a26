"""Gradient alignment: does a set's first step lead an untrained network towards "a patch means that class"?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, Several, detector
from ...measurement import Finding
from ...models import model as make_model
from ...models import room
from ...seeds import rng as make_rng
from ...seeds import spawn
from .._costs import CLASSES
from ..condensers._gradients import gradient
from ._synthetic import paste, permuted, squares

NUMBERS = 2**22  # of the gradients that one class's patches are compared by; ten classes of a ConvNet-3 are one part


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
        most = room(net, x.shape[1:])
        own = torch.empty(len(labelled), sum(p.numel() for p in net.parameters()), device=x.device)
        for row, made in zip(own, labelled, strict=True):
            row.copy_(_gradient(net, made.pixels(), made.y, most))
        own /= own.norm(dim=1, keepdim=True).clamp(min=1e-12)  # in place: a large image's head is most of the memory
        for some in torch.arange(classes).split(max(NUMBERS // own[0].numel(), 1)):
            aims = []
            for k in some.tolist():
                aim = torch.full((len(x),), k, device=x.device)
                plain = _gradient(net, x, aim, most)
                aims += [_gradient(net, marked, aim, most) - plain for marked in pasted]
            columns = slice(len(pasted) * int(some[0]), len(pasted) * int(some[-1] + 1))
            told[:, columns] += (own @ F.normalize(torch.stack(aims), dim=1).T).cpu() / networks
    null = told[1:]
    z = ((told - null.mean(0)) / null.std(0).clamp(min=1e-12)).view(len(labelled), classes, -1).amax(2)
    return Finding.of("gradient_alignment", z[0], p=float((z[1:].amax(1) >= z[0].max()).double().mean()))


def _gradient(net: nn.Module, x: Tensor, y: Tensor, most: int) -> Tensor:
    """∇θ of the mean cross-entropy as one vector, from so many images at once."""
    if len(x) <= most:
        return gradient(net, x, y)
    total = torch.zeros((), device=x.device)
    for some, labels in zip(x.split(most), y.split(most), strict=True):
        total = total + gradient(net, some, labels) * (len(some) / len(x))
    return total


def _pasted(x: Tensor, size: int, rng: Generator) -> Tensor:
    """[3,n,C,H,W]: on every image, somewhere, a white, a black and a checkered square."""
    found = x.repeat(3, 1, 1, 1, 1)
    tops, lefts = (torch.randint(side - size + 1, (len(x),), generator=rng).tolist() for side in x.shape[2:])
    for images, square in zip(found, squares(size, x), strict=True):
        for image, top, left in zip(images, tops, lefts, strict=True):
            paste(image, square, top, left)
    return found
