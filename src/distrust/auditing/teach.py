"""Teach: distil a student from a suspect on clean images, and measure both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import Augment
from ..measurement import Backdoor, measure
from ..models import model as make_model
from ..registry import registry
from ..seeds import rng
from ..selectors import parse_one
from ..training import distill
from .checkpoint import Made, Suspect, open_suspect


def teach(
    student: str,
    suspect: Suspect | str | Path | None,
    *,
    distiller: str = "kd",
    epochs: int = 10,
    batch_size: int = 128,
    flip: bool = True,
    crop: int = 4,
    lr: float = 0.1,
    trigger: str | Backdoor | None = None,
    target: int | None = None,
    seed: int = 0,
    **opened: Any,
) -> Made:
    """Distil a new `student` from a suspect on its training images.

    Args:
        student: model name, e.g. "wrn16-1".
        suspect: the teacher: what `open_suspect` returned, or a file.
        distiller: e.g. "at", or "kd[temperature=2]".
        epochs, batch_size, lr: as `distrust.distill` takes them.
        flip, crop: as `Augment` takes them.
        trigger, target: as `Suspect.measure` takes them; without them only ACC is measured.
        seed: of the student's start and training.
        **opened: of a file: `images`, `model`, … as `open_suspect` takes them.

    Raises:
        NotFound, BadInput: an unknown distiller, model or option, or as `open_suspect`.
        Diverged: as `distrust.distill`.
    """
    selector = parse_one(distiller)
    method = registry.get("distillers", selector.name)
    loss = method.made(method.check(selector.options))
    if not isinstance(suspect, Suspect):
        suspect = open_suspect(suspect, **opened)
    backdoor = suspect.backdoor(trigger, target)
    start = make_model(student, suspect.train, rng=rng("student", "start", seed))
    options = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    model = distill(
        start, suspect.model, suspect.train, loss=loss, augment=Augment(flip, crop), rng=rng("student", seed),
        device=suspect.device, **options,
    )  # fmt: skip
    taught, learnt = (measure(network, suspect.test, backdoor) for network in (suspect.model, model))
    facts = {
        "distiller": selector.text, "student": student, "images": suspect.images, "seed": seed,
        "teacher_measured": taught.record(), "student_measured": learnt.record(),
    }  # fmt: skip
    options |= {"flip": flip, "crop": crop}
    return Made(model, taught, learnt, suspect.taint, facts, options, f"teacher: {taught}\nstudent: {learnt}")
