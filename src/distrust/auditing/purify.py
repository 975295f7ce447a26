"""Make a model from a suspect: purified by a defence, or a student that it taught; both are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ..errors import BadInput
from ..measurement import Backdoor, Measurement
from ..models import check_fits, check_trains
from ..models import model as make_model
from ..models.saved import Names
from ..registry import registry
from ..seeds import rng
from ..selectors import parse_one
from ..training import distill, fit_head
from ..training.options import FIELDS, MOVES
from .artefact import write_artefact
from .checkpoint import Suspect, is_classifier, open_suspect
from .tuning import clean, tuned


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
        names: how the suspect's file names tensors, of a model that was made of its own.
    """

    model: nn.Module
    before: Measurement | None
    after: Measurement | None
    taint: tuple[str, ...]
    facts: dict[str, Any] = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)
    names: Names | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

    @property
    def flags(self) -> tuple[str, ...]:
        """Why the later measurement must not be believed."""
        return self.after.flags if self.after else ()

    def save(self, out: str | Path, keys: Literal["own", "original"] = "own") -> Path:
        """Write weights, record and model card into a new folder, all or nothing; return the weights' path.

        Args:
            out: the folder.
            keys: "original" names tensors as the suspect's file does, wrappers and prefixes included, and keeps what
                else that file holds beside them, so that the code that wrote it reads it; "own" as the network does.

        Raises:
            BadInput: the folder exists and is not empty; or the original names of a student, which has none.
            StoreError: it cannot be written.
        """
        if keys == "original" and self.names is None:
            raise BadInput("there is no file whose names could be kept. Leave --keys, or type --keys own.")
        names = self.names if keys == "original" else None
        return write_artefact(out, self.model, self.taint, {**self.facts, **self.options}, names)


def purify(
    method: str,
    suspect: Suspect | str | Path | None,
    *,
    fraction: float | None = None,
    encoder: bool = False,
    trigger: str | Backdoor | None = None,
    target: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
    **opened: Any,
) -> Made:
    """Clean a model with a defence; the defence never sees the trigger.

    The rate of a defence is chosen on a fifth of the images, which it does not see: of 1, 0.3, 0.1 and 0.03 times its
    own, the first that costs at most 5 points of accuracy. That takes up to four times as long; a rate that is named,
    `nad[lr=0.02]`, is not chosen, and `nad[lr=tune(0.1,0.05)]` names others.

    A defence of encoders opens an encoder and needs no labels. Where there are labels, a linear head on the features
    is measured.

    Args:
        method: a defence, e.g. "nad" or "nad[beta=0,lr=0.05]".
        suspect: what `open_suspect` returned, or a file.
        fraction: share of the training split that the defender has, 0..1 (default: all of it).
        encoder: a file without a record of Distrust is an encoder, to a defence that cleans classifiers too.
        trigger: as `Suspect.measure` takes it; without one only ACC is measured.
        target: class number that the trigger leads to.
        seed: of the defender's share and of the defence.
        tell: is called with a line of progress.
        **opened: of a file: `images`, `model`, … as `open_suspect` takes them.

    Raises:
        NotFound, BadInput: an unknown defence or option, one that works on images or needs labels that are not there,
            or as `open_suspect`.
        Skip: the defence cannot apply to this model, or nothing can be judged of it.
    """
    selector = parse_one(method)
    defense = registry.get("defenses", selector.name)
    if defense.mark.on not in ("classifier", "encoder"):
        raise BadInput(
            f"{selector.name} works on images; purify cleans a model. Name it on a study's defense axis, or call "
            f"distrust.defenses.{selector.name}."
        )
    if "trained_on" in defense.inputs:
        raise BadInput(
            f"{selector.name} trains anew on the images that the suspect was trained on, poisoned ones among them, and "
            f"a model does not bring these along. Name it on a study's defense axis, or call "
            f"distrust.defenses.{selector.name}(model, images)."
        )
    if encoder and defense.mark.on != "encoder":
        able = ", ".join(name for name, other in registry.kind("defenses").items() if other.mark.on == "encoder")
        raise BadInput(f"{selector.name} cleans classifiers, not encoders. Leave --encoder, or take one of {able}.")
    encoder = defense.mark.on == "encoder" and (encoder or not (defense.mark.also and is_classifier(suspect)))
    selector = tuned(defense, selector)
    if encoder and selector.tuned:
        raise BadInput(f"{selector.text}: an encoder has no accuracy to choose by. Give each option one value.")
    defense.check(selector.fixed(**{name: values[0] for name, values in selector.tuned.items()}).options)
    if not isinstance(suspect, Suspect):
        suspect = open_suspect(suspect, **opened, head=not encoder)
    backdoor = suspect.backdoor(trigger, target)
    if not encoder:
        if suspect.own and not defense.mark.unlabelled:
            raise BadInput(_unlabelled(selector.name, suspect))
        suspect.checked()
    if "lr" in defense.options:
        check_trains(suspect.model, suspect.train)
    images = suspect.train if fraction is None else suspect.roles(fraction, seed).clean
    made = clean(defense, selector, suspect.model, images, seed=seed, tell=tell)
    missing = set() if encoder or suspect.own else {*range(len(images.classes))} - {*images.hard.tolist()}
    facts: dict[str, Any] = {"method": selector.text, "images": suspect.images, "clean": made.images, "seed": seed}
    facts |= {"origin": "known" if suspect.known else "unknown", **made.facts}
    options = {"options": made.options}
    if encoder and len(suspect.train.classes) < 2:  # images without classes leave nothing to measure
        return Made(made.model, None, None, suspect.taint, facts, options, made.text, suspect.names)
    pair = [suspect.model, made.model]
    if encoder:
        pair = [fit_head(network, suspect.train, rng=rng("head", seed)) for network in pair]
    before, after = suspect.judge(pair[0], backdoor), suspect.judge(pair[1], backdoor, undefended=pair[0])
    if missing and defense.options:  # it has not seen them, and the test images may not show it
        after = after.flagged("class-missing")
    facts |= {"before": before.record(), "after": after.record()}
    facts |= {} if encoder else {"classes": suspect.test.classes}
    text = "\n".join(filter(None, [made.text, f"before: {before}", f"after:  {after}"]))
    return Made(made.model, before, after, suspect.taint, facts, options, text, suspect.names)


def _unlabelled(name: str, suspect: Suspect) -> str:
    """What to do where a defence needs labels that are not there."""
    marks = registry.marks("defenses").items()
    free = ", ".join(other for other, mark in marks if mark.cleans("classifier") and mark.unlabelled and not mark.null)
    return (
        f"{name} needs labels of the model's classes; {suspect.images} has none. Sort the images into class folders, "
        f"or map theirs to the model's: --classes FILE. These need none: {free}."
    )


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
    method.check(selector.options)
    if not isinstance(suspect, Suspect):
        suspect = open_suspect(suspect, **opened)
    backdoor = suspect.backdoor(trigger, target)
    suspect.checked()
    options: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "flip": flip, "crop": crop}
    model = pupil(student, suspect, selector.text, seed, **options)
    taught, learnt = (suspect.judge(network, backdoor) for network in (suspect.model, model))
    facts = {
        "distiller": selector.text, "student": student, "images": suspect.images, "seed": seed,
        "origin": "known" if suspect.known else "unknown",
        "teacher_measured": taught.record(), "student_measured": learnt.record(), "classes": suspect.test.classes,
    }  # fmt: skip
    return Made(model, taught, learnt, suspect.taint, facts, options, f"teacher: {taught}\nstudent: {learnt}")


def pupil(student: str, suspect: Suspect, distiller: str, seed: int, **options: Any) -> nn.Module:
    """A new `student` that a suspect taught on its training images.

    Args:
        student: model name.
        suspect: the teacher.
        distiller: with options of its own and of the training, e.g. "kd[temperature=2,epochs=12,flip=false]".
        seed: of the student's start and training.
        **options: of the training, where the distiller's name does not say them.

    Raises:
        NotFound, BadInput: an unknown distiller, model or option, or the images do not fit.
        Diverged: as `distrust.distill`.
    """
    selector = parse_one(distiller)
    method = registry.get("distillers", selector.name)
    known = {*FIELDS, *MOVES}
    loss = method.made(method.check({k: v for k, v in selector.options.items() if k not in known}))
    options |= {k: v for k, v in selector.options.items() if k in known}
    start = make_model(student, suspect.train, rng=rng("student", "start", seed))
    check_fits(start, suspect.train)
    check_trains(start, suspect.train)
    device = suspect.opened.get("device", "cpu")
    return distill(start, suspect.model, suspect.train, loss=loss, rng=rng("student", seed), device=device, **options)
