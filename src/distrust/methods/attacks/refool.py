"""Refool: reflections over some training images."""

from __future__ import annotations

import torch
from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, Count, Rate, Source, attack
from ...measurement import make_trigger
from ...seeds import rng as make_rng
from ...seeds import spawn
from ._pictures import pictures
from ._poison import Poisoned, Stamp, plant


@attack(paper="Liu, Ma, Bailey, Lu, Reflection Backdoor, ECCV 2020, arXiv 2007.02343", place=1)
def refool(
    train: ImageSet,
    *,
    reflections: Source = "photos",
    count: Count = 200,
    alpha: Rate = 0.4,
    ghosts: Rate = 0.49,
    offset: Count = 3,
    clean_label: bool = False,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Put a reflection of some other picture on a share of the training images and label them as the target.

    Args:
        train: the training images.
        reflections: images whose training split is reflected, as `images` opens them, with its options in brackets:
            "cifar100", "FOLDER[size=64]"; or "photos": random crops of the two photographs that come with scikit-learn.
        count: at most so many of them, drawn at random.
        alpha: share 0..1 of the image; the reflection has about the rest.
        ghosts: share 0..1 of the reflections that are doubled; the others are out of focus.
        offset: most pixels between the two of a doubled one.
        clean_label: poison images of the target class and keep their label.
        target: class number that reflections should lead to.
        rate: poisoned images as a share 0..1 of all training images, of which only those of other classes are poisoned;
            with `clean_label`, of the **target class's**.
        stamp: "before" augmentation or "after" it. A reflection covers the image, so there is no inset.
        rng: decides the reflections, and which images are poisoned.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1 or of no image, or pictures that are smaller than the
            images.
        NotFound: no such source.

    Differs from the paper: reflections are not selected by how well they attack, labels are those of the target unless
    `clean_label`, and α is fixed, all as in BackdoorBench, which found the paper's own way to miss a high ASR. Shifts
    are of 1 to 3 pixels for images of 32. A test image reflects one of the same pictures, by its own pixels.
    """
    rng = rng or make_rng("refool")
    shown = pictures(reflections, tuple(train.x.shape[1:]), count, spawn(rng))
    seed = int(torch.randint(2**31, (), generator=rng))
    trigger = make_trigger("reflection", pictures=shown, alpha=alpha, ghosts=ghosts, offset=offset, seed=seed)
    return plant(
        "refool", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, clean_label=clean_label
    )
