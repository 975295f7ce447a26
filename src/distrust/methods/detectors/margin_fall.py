"""Margin fall: a margin that the suspect has and its copy, fine-tuned on clean images, has not, was planted."""

from __future__ import annotations

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...errors import Skip
from ...marks import Count, NonNegative, Positive, detector
from ...measurement import Finding
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, fit, quick
from .._costs import CLASSES
from ..defenses._schedule import FINETUNING
from ._margins import margins


@detector(
    paper="ours: the margins of MM-BD (arXiv 2205.06900) beside those of the suspect's own fine-tuned copy",
    cost=lambda options, n: 2 * CLASSES * options["steps"] * options["images"] + n * options["epochs"],
)
def margin_fall(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    steps: Count = 80,
    ascent_lr: Positive = 0.01,
    images: Count = 10,
    tolerance: NonNegative = 1e-5,
    training: Training = FINETUNING.changed(epochs=6, lr=0.05),
    rng: Generator | None = None,
) -> Finding:
    """m_k(f) − m_k(f'), m_k the largest margin z_k − max_{j≠k} z_j that noise can be pushed to.

    f' is the suspect f, fine-tuned on clean images: it has its function and, mostly, not its backdoor. The same noise
    is pushed in both. How large margins are is each network's own matter, and natural ones stay; planted ones fall.

    Args:
        suspect: a classifier.
        clean: labelled images, on which the copy is tuned; the margins are not shown them.
        steps: of gradient ascent, at most.
        ascent_lr: step, in pixel units by the gradient of a single image's margin.
        images: from which each class starts, uniform noise; the best one counts.
        tolerance: a class stops when the sum of its margins changes by a smaller part of itself.
        training: how the copy is tuned.
        rng: draws noise and order.

    Raises:
        Skip: there are too few images for one batch.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: there is none. MM-BD compares the margins of a model's classes with each other.
    """
    rng = rng or make_rng("margin_fall")
    if len(clean) < training.batch_size:
        raise Skip(
            f"margin_fall tunes a copy on batches of {training.batch_size}; shown {len(clean)} images. Give more."
        )
    copy = quick(fit(suspect, clean, training=training, rng=spawn(rng)), clean)
    start = rng.get_state()
    with torch.enable_grad():
        own = margins(quick(suspect, clean), clean, images, steps, ascent_lr, tolerance, rng)
        rng.set_state(start)
        his = margins(copy, clean, images, steps, ascent_lr, tolerance, rng)
    return Finding.of("margin_fall", own - his, notes={"suspect": own.tolist(), "copy": his.tolist()})
