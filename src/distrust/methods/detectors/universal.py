"""Universal perturbations: how surely does one small change of all images lead to a class? Far too surely, tells."""

from __future__ import annotations

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...marks import Count, Positive, detector
from ...measurement import Finding
from ...models import frozen_mode
from ...seeds import rng as make_rng
from .._costs import CLASSES
from ._classes import groups
from ._universal import Norm, reached, searched


@detector(
    paper="ours, after Moosavi-Dezfooli et al., Universal Adversarial Perturbations, CVPR 2017, arXiv 1610.08401",
    cost=lambda options, n: CLASSES * (options["steps"] * options["batch_size"] + min(options["images"], n) / 2),
)
def universal(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    norm: Norm = "l2",
    size: Positive = 2.0,
    steps: Count = 60,
    batch_size: Count = 40,
    images: Count = 200,
    rng: Generator | None = None,
) -> Finding:
    """max_δ mean log p_k(clip(x + δ)), ‖δ‖ ≤ size, for every class k; score: the mean p_k of images of other classes.

    Every class has the same steps of steepest ascent, of length 2.5 · size / steps, projected onto the ball. Without a
    weight on the size, scores can be compared among models.

    Args:
        suspect: a classifier.
        clean: labelled images to change.
        norm: "l2", of an image's change as one vector, or "linf", of its largest pixel.
        size: in pixel units 0..1; for "linf" name it, such as 0.03.
        steps: of ascent.
        batch_size: images a step; every class sees the same.
        images: of `clean` that are scored, at most.
        rng: draws images.

    Differs from the paper: it leads away from the label, image by image; here to one class, by gradients of a batch.
    """
    rng = rng or make_rng("universal")
    drawn = [torch.randint(len(clean), (batch_size,), generator=rng).to(clean.x.device) for _ in range(steps)]
    shown = clean[torch.randperm(len(clean), generator=rng)[:images].to(clean.x.device)]
    with frozen_mode(suspect), torch.enable_grad():
        together, most = groups(suspect, clean, batch_size)
        found = []
        for classes in together:
            change = searched(suspect, clean, classes, drawn, most, norm, size)
            found.append(reached(suspect, shown, classes, change, most, batch_size))
    sure, called = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Finding.of("universal", sure, notes={"reached": called.tolist()})
