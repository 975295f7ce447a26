"""Make a model from a suspect: purified by a defence, or a student that it taught; both are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import BadInput
from ..measurement import Backdoor, Measurement, measure
from ..models import model as make_model
from ..registry import registry
from ..seeds import rng
from ..selectors import parse_one
from ..training import distill, fit_head
from .checkpoint import Suspect, open_suspect, write_artefact


@dataclass(frozen=True)
class Made:
    """A model that was made from a suspect.

    Args:
        model: what was made.
        before: what the suspect measures; None where the images have no classes.
        after: what the model measures.
        taint: attacks that are known among its ancestors.
        facts: how it was made, and both measurements; JSON-able.
        options: what its record says besides.
        text: the measurements in words.
    """

    model: nn.Module
    before: Measurement | None
    after: Measurement | None
    taint: tuple[str, ...]
    facts: dict[str, Any] = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text

    @property
    def flags(self) -> tuple[str, ...]:
        """Why the later measurement must not be believed."""
        return self.after.flags if self.after else ()

    def save(self, out: str | Path) -> Path:
        """Write weights, record and model card into a new folder, all or nothing; return the weights' path.

        Raises:
            BadInput: the folder exists and is not empty.
            StoreError: it cannot be written.
        """
        return write_artefact(out, self.model, self.taint, {**self.facts, **self.options})


def purify(
    method: str,
    suspect: Suspect | str | Path | None,
    *,
    fraction: float = 0.05,
    trigger: str | Backdoor | None = None,
    target: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
    **opened: Any,
) -> Made:
    """Clean a model with a defence; the defence never sees the trigger.

    A defence of encoders opens an encoder and needs no labels. Where there are labels, a linear head on the features
    is measured.

    Args:
        method: a defence, e.g. "nad" or "nad[beta=0,lr=0.05]".
        suspect: what `open_suspect` returned, or a file.
        fraction: share of the training split that the defender has, 0..1.
        trigger: as `Suspect.measure` takes it; without one only ACC is measured.
        target: class number that the trigger leads to.
        seed: of the defender's share and of the defence.
        tell: is called with a line of progress.
        **opened: of a file: `images`, `model`, … as `open_suspect` takes them.

    Raises:
        NotFound, BadInput: an unknown defence or option, one that works on images, or as `open_suspect`.
        Skip: the defence cannot apply to this model.
    """
    selector = parse_one(method)
    defense = registry.get("defenses", selector.name)
    if defense.mark.on not in ("classifier", "encoder"):
        raise BadInput(
            f"{selector.name} works on images; purify cleans a model. Name it on a study's defense axis, or call "
            f"distrust.defenses.{selector.name}."
        )
    options = defense.check(selector.options)
    encoder = defense.mark.on == "encoder"
    if not isinstance(suspect, Suspect):
        suspect = open_suspect(suspect, **opened, head=not encoder)
    backdoor = suspect.backdoor(trigger, target)
    clean = suspect.roles(fraction, seed).clean
    tell(f"{method} on {len(clean)} clean images of {suspect.train.name}")
    model = defense.made(options)(suspect.model, clean, rng=rng("defense", seed))
    facts: dict[str, Any] = {"method": selector.text, "images": suspect.images, "clean": len(clean), "seed": seed}
    facts["origin"] = "known" if suspect.known else "unknown"
    if encoder and len(suspect.train.classes) < 2:  # images without classes leave nothing to measure
        return Made(model, None, None, suspect.taint, facts, {"options": options}, "")
    pair = [suspect.model, model]
    if encoder:
        pair = [fit_head(network, suspect.train, rng=rng("head", seed)) for network in pair]
    before = measure(pair[0], suspect.test, backdoor)
    after = measure(pair[1], suspect.test, backdoor, undefended=pair[0])
    facts |= {"before": before.record(), "after": after.record()}
    text = f"before: {before}\nafter:  {after}"
    return Made(model, before, after, suspect.taint, facts, {"options": options}, text)


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
        epochs: passes over the training images.
        batch_size: images a step.
        flip: mirror half of the images; not for digits or signs.
        crop: shift images by up to so many pixels.
        lr: learning rate, the maximum of the one-cycle schedule.
        trigger: as `Suspect.measure` takes it; without one only ACC is measured.
        target: class number that the trigger leads to.
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
    options: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "flip": flip, "crop": crop}
    device = suspect.opened.get("device", "cpu")
    model = distill(start, suspect.model, suspect.train, loss=loss, rng=rng("student", seed), device=device, **options)
    taught, learnt = (measure(network, suspect.test, backdoor) for network in (suspect.model, model))
    facts = {
        "distiller": selector.text, "student": student, "images": suspect.images, "seed": seed,
        "origin": "known" if suspect.known else "unknown",
        "teacher_measured": taught.record(), "student_measured": learnt.record(),
    }  # fmt: skip
    return Made(model, taught, learnt, suspect.taint, facts, options, f"teacher: {taught}\nstudent: {learnt}")
