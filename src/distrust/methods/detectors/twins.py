"""Twins: what moves the suspect and not its copies, which were fine-tuned on clean images, was planted."""

from __future__ import annotations

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...errors import Skip
from ...marks import Count, Positive, Rate, detector
from ...measurement import Finding
from ...models import frozen_mode
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, fit
from .._costs import CLASSES
from ..defenses._schedule import FINETUNING
from ._classes import groups
from ._universal import Norm, reached, searched


@detector(
    paper="ours: the control arm of a suspect that has none",
    cost=lambda options, n: (
        CLASSES * options["steps"] * options["images"]
        + n * (1 - options["held"]) * options["copies"] * options["epochs"]
        + CLASSES * n * options["held"] / 2
    ),
)
def twins(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    copies: Count = 1,
    held: Rate = 0.3,
    norm: Norm = "l2",
    size: Positive = 0.5,
    steps: Count = 40,
    images: Count = 40,
    training: Training = FINETUNING.changed(epochs=6, lr=0.05),
    rng: Generator | None = None,
) -> Finding:
    """p_k(f(x + δ_k)) − p_k(f'(x + δ_k)): a perturbation made for the suspect f, on it and on its copies f'.

    For every class k, δ_k is the suspect's `universal` perturbation, and f' the suspect, fine-tuned on clean images:
    it has the suspect's function and, mostly, not its backdoor. What is natural to the data moves both; score: how much
    less sure of k the copies are, the mean over held-out images of other classes.

    Args:
        suspect: a classifier.
        clean: labelled images.
        copies: how many are made, each with an order of its own.
        held: share 0..1 of the images that copies are not tuned on, and scores are taken from.
        norm: "l2", of a perturbation as one vector, or "linf", of its largest pixel.
        size: in pixel units 0..1, of the perturbations.
        steps: of ascent.
        images: that a step sees; every class sees the same.
        training: how a copy is tuned.
        rng: draws images and orders.

    Raises:
        Skip: there are too few images to hold some out and tune on the others.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: there is none. Others compare a model's classes with each other, where what is natural
    stands beside what was planted; here each class is compared with itself.
    """
    rng = rng or make_rng("twins")
    order = torch.randperm(len(clean), generator=rng).to(clean.x.device)
    shown, own = clean[order[: round(held * len(clean))]], clean[order[round(held * len(clean)) :]]
    if not len(shown) or len(own) < training.batch_size:
        raise Skip(
            f"twins tunes copies on batches of {training.batch_size}, and was shown {len(clean)} images. Give more."
        )
    drawn = [torch.randint(len(own), (images,), generator=rng).to(clean.x.device) for _ in range(steps)]
    tuned = [fit(suspect, own, training=training, rng=spawn(rng)) for _ in range(copies)]
    found = []
    with frozen_mode(suspect), torch.enable_grad():
        together, most = groups(suspect, clean, images)
        for classes in together:
            change = searched(suspect, own, classes, drawn, most, norm, size)
            both = [reached(model, shown, classes, change, most, images)[0] for model in (suspect, *tuned)]
            found.append(torch.stack(both))
    sure = torch.cat(found, 1)  # [1 + copies, K]
    return Finding.of("twins", sure[0] - sure[1:].mean(0), notes={"sure": sure.tolist()})
