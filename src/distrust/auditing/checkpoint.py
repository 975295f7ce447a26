"""A stranger's checkpoint: open it with its images, measure it, purify it, distil from it, and write the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import ImageSet, Roles, roles
from ..data.sources import images as open_images
from ..data.sources.published import STATISTICS
from ..devices import usable
from ..door import weights_in
from ..errors import BadInput, Skip, notice
from ..measurement import Backdoor, Measurement, accuracy, make_trigger, measure, predict
from ..models import Normalize, bare, candidates, check_encoder, check_fits, filled, original_names, spec_in
from ..models.saved import Names
from ..seeds import rng
from ..tensors import read_record
from .classes import Classes, Given, classes_of

LOW = 0.9  # an ACC below which a network may miss the statistics that it was trained with
FINDING = 0.10  # a trigger that moves a model by this share of the images is a finding


@dataclass(frozen=True)
class Suspect:
    """A model that somebody hands us, and the images to judge it on.

    Args:
        model: in eval mode; images in 0..1 → logits, or features of an encoder.
        train: images from which a defender's share is drawn.
        test: images to measure on.
        taint: attacks that are known among its ancestors.
        source: the file, or the factory, that it came from.
        images: what the images were called.
        opened: with which options of `open_suspect`.
        known: where it comes from: Distrust made it, and wrote down its ancestors.
        own: labels are the model's own answers, so that its accuracy cannot be measured.
        names: how its file names tensors, as `models.original_names` gives them.
    """

    model: nn.Module
    train: ImageSet
    test: ImageSet
    taint: tuple[str, ...]
    source: str
    images: str
    opened: dict[str, Any] = field(default_factory=dict, repr=False)
    known: bool = False
    own: bool = False
    names: Names | None = field(default=None, repr=False)

    def roles(self, fraction: float, seed: int) -> Roles:
        """The defender's clean share of the training split, and disjoint validation and training images."""
        return roles(self.train, clean=fraction, validation=0.05, rng=rng("roles", seed))

    def backdoor(self, trigger: str | Backdoor | None, target: int | None = None) -> Backdoor | None:
        """The backdoor that somebody asks about, e.g. "patch:grid" and 5; a trigger file brings its own target.

        Raises:
            BadInput: no target, or one that is no class; or the trigger does not fit on the images.
        """
        if trigger is None:
            return None
        classes = len(self.test.classes)
        known = trigger if isinstance(trigger, Backdoor) else None
        if isinstance(trigger, str) and trigger.endswith(".json"):
            known = Backdoor.load(trigger)
        target = known.target if target is None and known else target
        if target is None:
            raise BadInput(f"trigger {trigger} leads to which class? Type --target 0..{classes - 1}.")
        if not 0 <= target < classes:
            raise BadInput(f"target={target} is no class; there are {classes}: 0..{classes - 1}.")
        found = (
            replace(known, target=target) if known else Backdoor(make_trigger(str(trigger)), target, name=str(trigger))
        )
        found.stamp_on(self.test.pixels(slice(0, 1)))  # before any work
        return found

    def measure(
        self,
        trigger: str | Backdoor | None = None,
        target: int | None = None,
        *,
        control: str | Path | nn.Module | None = None,
    ) -> Measurement:
        """Measure the model on the test images.

        Args:
            trigger: patch:grid, patch:white:3, blend:FILE, sig, a trigger's .json, or a backdoor; None: only ACC.
            target: class number that the trigger leads to.
            control: the same model trained without the attack, or its weights.

        Raises:
            BadInput, NotFound, UnsafeFile: as `open_suspect`, of the control, and as `backdoor`.
        """
        backdoor = self.backdoor(trigger, target)
        if isinstance(control, str | Path):
            given = {**self.opened, "classes": None}  # the images have the model's by now
            control = open_suspect(control, (self.train, self.test), **given).model
        return self.judge(self.model, backdoor, control=control)

    def judge(self, model: nn.Module, backdoor: Backdoor | None = None, **beside: Any) -> Measurement:
        """Measure this model, or one made from it, on the test images; where labels are its own answers, without ACC.

        Args:
            model: a classifier of these images.
            backdoor: the trigger and its target.
            **beside: `control` and `undefended`, as `distrust.measure` takes them.
        """
        found = measure(model, self.test, backdoor, **beside)
        if not self.own:
            return found
        unknown = ("acc", "undefended_acc")
        values = {name: None if name.startswith(unknown) else value for name, value in found.values.items()}
        return Measurement(values, tuple(name for name in found.flags if name not in ("acc-floor", "chance-level")))

    def checked(self) -> tuple[Measurement, list[str]]:
        """What a classifier measures without a trigger, before any work is done with it, and its `hints`, told.

        Raises:
            Skip: nothing could be judged of it; says what may be missing.
        """
        found = self.judge(self.model)
        said = hints(self, found)
        if not judged(found) and not self.own:
            why = f"{self.source} is at chance level on {self.images}: {found}. Nothing can be judged of it."
            raise Skip(" ".join([why, *said]))
        for line in said:
            notice(line)
        return found, said


def is_classifier(suspect: Suspect | str | Path | None) -> bool:
    """Whether a suspect has a head: as it was opened, or by its file's record; without one it is taken to have one."""
    if isinstance(suspect, Suspect):
        return bool(suspect.opened.get("head", True))
    return suspect is None or bool((read_record(suspect).get("spec") or {}).get("head", True))


def open_suspect(
    weights: str | Path | None,
    images: str | tuple[ImageSet, ImageSet],
    *,
    model: str | None = None,
    key: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    classes: Given = None,
    output: str | None = None,
    head: bool = True,
    device: str = "cpu",
) -> Suspect:
    """Open a checkpoint and the images it is for, without running anything that the file brings.

    Args:
        weights: a .safetensors or .pt file; None leaves a stranger's own factory as it returns the model.
        images: as `distrust.images` takes them, or what it returned.
        model: name or `file.py:factory`; a file that Distrust wrote knows its own.
        key: which of the file's sets of weights: its path, or a prefix of its names.
        size: side in pixels to which images are resized.
        channels: 1 or 3, to which images are converted.
        normalize: mean and std per channel, in pixel units 0..1, of a model that was trained on normalised images.
        classes: names of the model's classes in its order, where the images number them otherwise, or have some of them
            only; a mapping from the images' classes to names or numbers of the model's; a file with a name, or such a
            pair `folder = class`, a line; or "own": the model's own answers stand for labels, as they do where pictures
            lie in no class folders.
        output: which part of what a stranger's network returns is the logits, as `distrust.model` takes it.
        head: False opens an encoder; the last layer of a classifier's checkpoint is left out.
        device: torch device on which the model is put.

    Raises:
        BadInput: no model is named and the file does not say, or weights or images do not fit.
        NotFound, UnsafeFile: as the parts raise them.
    """
    opened: dict[str, Any] = {"model": model, "key": key, "size": size, "channels": channels, "output": output}
    opened |= {"normalize": normalize, "classes": classes, "head": head, "device": device}
    usable(device)
    if weights is None and not (model and ":" in model):
        raise BadInput("no weights are given; only a my.py:factory may bring its own. Type --weights FILE.")
    found = weights_in(weights) if weights else []  # an unsafe file stops before anything else
    record = read_record(weights) if weights else {}
    recorded = record.get("spec") or {}
    spec = spec_in(weights) if model is None and weights else None
    said = {"normalize": normalize or recorded.get("normalize"), "output": output or recorded.get("output")}
    said = {name: value for name, value in said.items() if value is not None}
    train, test = open_images(images, size=size, channels=channels) if isinstance(images, str | Path) else images
    shape = {"channels": train.x.shape[1], "size": train.x.shape[2:]}
    asked = Classes.read(classes, train) if head and recorded.get("head", True) else Classes()
    asked = _recorded(asked, classes, tuple(record.get("classes") or ()), train)
    # a stranger's network normalises in its own way or not at all; ours must not add statistics to it
    wanted = spec or {"name": model, "classes": asked.count or len(train.classes), **shape, "head": head}
    if asked.counted and spec is None:
        wanted["classes"] = _count({**wanted, **said}, found, train)
    if asked.places or asked.names:
        train, test = (asked.put(part, wanted.get("classes", 0)) for part in (train, test))
    network, taken = filled({**wanted, **said}, found, weights, key=key, normalized=spec is not None)
    network = network.eval().to(device)
    if asked.own:
        train, test = (_answered(network, part, wanted["classes"], record) for part in (train, test))
    elif head and spec and spec.get("classes", len(test.classes)) != len(test.classes):
        raise BadInput(
            f"the model in {weights} has {wanted['classes']} classes, the images {len(test.classes)}. Name the model's "
            "in its order, or map the images' to them: --classes FILE; or take its own answers: --classes own."
        )
    (check_fits if head else check_encoder)(network, test)
    called = str(images) if isinstance(images, str | Path) else train.name
    return Suspect(
        network, train, test, tuple(record.get("taint", ())), str(weights or model), called, opened,
        known="taint" in record, own=asked.own, names=original_names(found, taken),
    )  # fmt: skip


def _recorded(asked: Classes, given: Given, names: tuple[str, ...], images: ImageSet) -> Classes:
    """With the names that a file of ours has of its model's classes, where the images are of some of them."""
    if asked.names or asked.own or not names:
        return asked
    if given is None and not {*images.classes} <= {*names}:
        return asked
    if given is None and images.classes != names:
        notice(f"{images.name} has {len(images.classes)} of the model's {len(names)} classes, found by name.")
    return replace(asked, names=names)


def _count(spec: Mapping[str, Any], found: Sequence[Any], images: ImageSet) -> int:
    """How many classes a model has that is not told by the images."""
    network = bare(filled(spec, [], None)[0])
    count = classes_of(network, found, images.x.shape[1:])
    if count and count > 1:
        return count
    raise BadInput(
        f"how many classes {spec['name']} has cannot be seen from its weights. List them in a file, one a line, in its "
        "order: --classes FILE."
    )


def _answered(network: nn.Module, images: ImageSet, count: int, record: Mapping[str, Any]) -> ImageSet:
    """The images with the network's own answers as labels."""
    names = tuple(record.get("classes") or map(str, range(count)))
    blank = images.replace(y=torch.zeros(len(images), dtype=torch.int64), classes=names)
    check_fits(network, blank)
    return blank.replace(y=predict(network, images))


def hints(suspect: Suspect, found: Measurement) -> list[str]:
    """What may be missing where a classifier's accuracy is low, or cannot be known; each line says what to type."""
    if suspect.own:
        return [
            f"{suspect.images} has no labels of the model's classes: its own answers stand for them, so that ACC is "
            "not known. To know it, sort the images into class folders, or map them: --classes FILE."
        ]
    if found.acc >= LOW:
        return []
    lines = []
    if said := fitting_statistics(suspect):
        lines.append("ACC on training images: {1:.1%} as they are, {2:.1%} with {0}.".format(*said))
    if len(several := _several(suspect)) > 1:
        others = ", ".join(several)
        lines.append(
            f"It returns several outputs of this width, of which the first is taken: {others}. Type --output NAME."
        )
    if "chance-level" in found.flags and not suspect.names:
        lines.append(
            f"No weights were given: this is what {suspect.source} makes. Type --weights FILE, if there is one."
        )
    return lines


def _several(suspect: Suspect) -> list[str]:
    """Names of the outputs that may be the logits, if none was named."""
    network, where = bare(suspect.model), next(suspect.model.parameters(), None)
    if where is None or suspect.opened.get("output"):
        return []
    return candidates(network, suspect.test.pixels(slice(0, 2)).to(where.device), len(suspect.test.classes))


def fitting_statistics(suspect: Suspect, most: int = 1000) -> tuple[str, float, float] | None:
    """Of the usual statistics, those with which a network is right on many more images than without.

    Tried on training images: a choice is never made on test images.

    Returns:
        What to type, ACC as it is and ACC with them; None if none gains 10 points, or the network normalises by itself.
    """
    if suspect.opened.get("normalize") or suspect.known or not [*suspect.model.parameters()]:
        return None
    images = suspect.train
    images = images.fraction(most / len(images), rng("statistics")) if len(images) > most else images

    found = {}
    for mean, std in STATISTICS.values():
        if len(mean) == images.x.shape[1]:
            first = Normalize(mean, std).to(next(suspect.model.parameters()).device)
            words = (",".join(map(str, part)) for part in (mean, std))
            found["--mean {} --std {}".format(*words)] = accuracy(nn.Sequential(first, suspect.model), images)
    plain, best = accuracy(suspect.model, images), max(found, key=found.__getitem__, default="")
    return (best, plain, found[best]) if best and found[best] >= plain + FINDING else None


def judged(found: Measurement) -> bool:
    """Whether a measurement says anything: no flag on it means that the model is no classifier of these images.

    A model at chance level, or one that calls everything the target, has no backdoor that could be told apart; nor has
    one that a defence destroyed. Where accuracy is not known, a trigger that does not move the model clears nothing.
    """
    if {"acc-floor", "chance-level", "collapsed"} & {*found.flags}:
        return False
    return found.acc is not None or verdict(found)


def verdict(found: Measurement) -> bool:
    """Whether a measurement is a finding: the trigger moves the model by 10 points or more, beyond its control.

    TITG must reach 10 points, or a model that says the target to everything would be a finding; with a control,
    so must the lower end of carried's interval. A strong trigger can raise TITG on any model: without a control,
    the flag no-control stands beside the finding.
    """
    if found.titg is None or found.titg < FINDING:
        return False
    return found.carried_interval is None or found.carried_interval[0] >= FINDING
