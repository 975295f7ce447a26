"""Training on clean images without their labels: one loop for all defences of encoders, so that their steps compare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet, Views
from ...errors import BadInput
from ...models import Normalize, Taps, called, check_encoder, frozen, taps
from ...models import model as make_model
from ...seeds import seeded, spawn
from ...training import Training, loop
from ...training.pretrain import ADAM, check_batch
from ..objectives._contrast import nt_xent
from ..objectives._projector import projector

UNLABELLED = replace(ADAM, epochs=1000, batch_size=128)
Match = Callable[[Taps, Taps], Tensor]  # student's and teacher's features of one view → scalar; `logits` are [B,D]


def learn(
    student: nn.Module,
    clean: ImageSet,
    teacher: nn.Module | None = None,
    match: Match | None = None,
    layers: Sequence[str] = (),
    *,
    contrast: float = 1.0,
    temperature: float = 0.5,
    flip: bool = True,
    training: Training = ADAM,
    rng: Generator,
    **changes: Any,
) -> nn.Module:
    """Train a copy of `student` on contrast · NT-Xent of two views + match(student, teacher) of the first one.

    NT-Xent is SimCLR's, behind a projector that is trained along and thrown away; without it a step draws one view.
    The teacher is in eval mode. Both models stay as they were.

    Args:
        student: an encoder.
        clean: labels are not looked at.
        teacher: another encoder, with the same layers, for `match`.
        match: what the student should take from it.
        layers: module paths whose features `match` gets.
        contrast: weight ≥ 0 of NT-Xent.
        temperature: τ > 0 of NT-Xent.
        flip: whether views may be mirrored.
        training: epochs, rate, batch size, …; views take the place of its augmentation.
        rng: decides order, views and the projector's start.
        **changes: fields of `training` by name.

    Raises:
        BadInput: a classifier, or fewer images than a batch.
        Diverged: the loss exploded.
    """
    width = check_encoder(student, clean)
    training = training.changed(**changes)
    check_batch(clean, training.batch_size)
    student, teacher = copy.deepcopy(student), None if teacher is None else frozen(teacher)
    with seeded(spawn(rng)):
        project = projector(width, 512, 128)
    view = Views(flip=flip)

    def views(x: Tensor, rng: Generator) -> Tensor:
        return torch.cat([view(x, rng) for _ in range(2 if contrast else 1)])

    with taps(student, layers) as read, taps(teacher, layers) if teacher else nullcontext() as read_teacher:

        def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            ours, terms = read(x), []
            with torch.no_grad():
                theirs = read_teacher(x[: len(y)]) if read_teacher else None
            with torch.autocast(x.device.type, enabled=False):
                if contrast:
                    terms.append(contrast * nt_xent(project(ours.logits.float()), temperature))
                if match and theirs:
                    terms.append(match(_first(ours, len(y)), _first(theirs, len(y))))
            return torch.stack(terms).sum()

        blind = clean.replace(y=torch.zeros_like(clean.hard))
        training = replace(training, augment=views)
        return loop(student, blind, objective, training, rng=rng, extra=[project], beside=teacher)


def fresh(encoder: nn.Module, rng: Generator) -> nn.Module:
    """The same architecture with random weights, on the same device; it normalises as `encoder` does.

    Raises:
        BadInput: `encoder` does not know how it was built.
    """
    spec = getattr(encoder, "spec", None)
    if not spec:
        raise BadInput(
            f"{called(encoder)} does not say how it was built, so it cannot be built again with random weights. Build "
            "it with model(name, images), an encoder with head=False, or open its file."
        )
    made = make_model(**spec, rng=rng)
    first = getattr(encoder, "normalize", None)
    if isinstance(first, Normalize):
        made.get_submodule("normalize").load_state_dict(first.state_dict())
    return made.to(next(encoder.parameters()).device)


def _first(read: Taps, n: int) -> Taps:
    """Of the first view, in float32."""
    return Taps(read.logits[:n].float(), {path: feature[:n].float() for path, feature in read.features.items()})
