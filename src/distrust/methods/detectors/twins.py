"""Twins: what moves the suspect and not its copies, which were fine-tuned on clean images, was planted."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...errors import Skip
from ...marks import Count, Positive, Rate, Share, detector
from ...measurement import Finding
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, fit, quick
from .._costs import CLASSES
from ..defenses._schedule import FINETUNING
from ._classes import groups
from ._universal import Norm, reached, searched

TRIED = 3  # sizes, usually, each with half of the steps


@detector(
    paper="ours: the control arm of a suspect that has none",
    finds=True,
    version=2,
    cost=lambda options, n: (
        CLASSES * options["steps"] * options["images"] * (1 + TRIED / 2 + options["copies"])
        + n * (1 - options["held"]) * options["copies"] * options["epochs"]
        + CLASSES * n * options["held"]
    ),
)
def twins(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    copies: Count = 1,
    held: Rate = 0.3,
    norm: Norm = "l2",
    reach: Share = 0.1,
    first: Positive = 0.5,
    steps: Count = 30,
    images: Count = 32,
    training: Training = FINETUNING.changed(epochs=6, lr=0.05),
    rng: Generator | None = None,
) -> Finding:
    """(p_k(f(x + δ_k)) − p_k(f'(x + δ_k))) − (p_k(f'(x + δ'_k)) − p_k(f(x + δ'_k))), on held-out images x.

    δ_k is the `universal` perturbation of the suspect f towards class k; f' the suspect, fine-tuned on clean images,
    which has its function and, mostly, not its backdoor; δ'_k the perturbation of f'. The first difference is what
    the suspect's perturbation does and does not do to its twin. The second is the same with their parts exchanged:
    what a perturbation owes to the network that it was made for. What is natural to the data moves both.

    The size of all perturbations is the one at which those of the first copy reach the median class with `reach`.

    Args:
        suspect: a classifier.
        clean: labelled images.
        copies: how many are made, each with an order of its own; scores are means over them.
        held: share 0..1 of the images that copies are not tuned on, and scores are taken from.
        norm: "l2", of a perturbation as one vector, or "linf", of its largest pixel.
        reach: mean p_k that the copy's own perturbations reach in the median class.
        first: the size that is tried first, in pixel units 0..1; it is doubled until it reaches that far.
        steps: of ascent; half as many while a size is sought.
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
    copied = [quick(fit(suspect, own, training=training, rng=spawn(rng)), clean) for _ in range(copies)]
    suspect = quick(suspect, clean)
    together, most = groups(suspect, clean, images)
    with torch.enable_grad():

        def moved(model: nn.Module, size: float, steps: int = steps) -> Tensor:
            parts = [searched(model, own, classes, drawn[:steps], most, norm, size) for classes in together]
            return torch.cat(parts)  # [K,C,H,W]

        def sure(model: nn.Module, change: Tensor) -> Tensor:
            parts = zip(together, change.split([*map(len, together)]), strict=True)
            return torch.cat([reached(model, shown, classes, part, most, images)[0] for classes, part in parts])

        half = max(steps // 2, 1)
        size = _size(lambda size: float(sure(copied[0], moved(copied[0], size, half)).median()), first, reach)
        mine, his = moved(suspect, size), [moved(copy, size) for copy in copied]
        own_p, own_back = sure(suspect, mine), [sure(suspect, change) for change in his]
        other_p = [sure(copy, mine) for copy in copied]
        other_back = [sure(copy, change) for copy, change in zip(copied, his, strict=True)]
    lost = own_p - torch.stack(other_p).mean(0)
    owed = torch.stack(other_back).mean(0) - torch.stack(own_back).mean(0)
    scores = lost - owed
    told = {"size": size, "suspect": own_p.tolist(), "lost": lost.tolist(), "owed": owed.tolist()}
    return Finding.of("twins", scores, notes=told, trigger={"perturbation": mine[int(scores.argmax())].cpu()})


def _size(reaches: Callable[[float], float], first: float, reach: float, most: int = 8) -> float:
    """The size that reaches so far: doubled until it does, then between the last two, along a line in logarithms."""
    size, before = first, 0.0
    for _ in range(most):
        now = reaches(size)
        if now >= reach:
            break
        size, before = 2 * size, now
    if size == first or now < reach:
        return size
    low, high, goal = (math.log(max(value, 1e-3)) for value in (before, now, reach))
    return float(size / 2 * 2 ** ((goal - low) / (high - low)))
