"""A stranger's checkpoint: open it with its images, measure it, purify it, distil from it, and write the result."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__
from ..data import ImageSet, Roles, roles
from ..data.images import renumbered
from ..data.sources import images as open_images
from ..data.sources.published import STATISTICS
from ..devices import usable
from ..door import fitted, weights_in
from ..errors import BadInput, NotFound
from ..files import artefact_name, write_folder
from ..measurement import Backdoor, Measurement, make_trigger, measure, predict
from ..models import Normalize, check_encoder, check_fits, spec_in
from ..models import model as make_model
from ..seeds import rng
from ..tensors import model_bytes, read_record

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
    """

    model: nn.Module
    train: ImageSet
    test: ImageSet
    taint: tuple[str, ...]
    source: str
    images: str
    opened: dict[str, Any] = field(default_factory=dict, repr=False)
    known: bool = False

    def roles(self, fraction: float, seed: int) -> Roles:
        """The defender's clean share of the training split, and disjoint validation and training images."""
        return roles(self.train, clean=fraction, validation=0.05, rng=rng("roles", seed))

    def backdoor(self, trigger: str | Backdoor | None, target: int | None = None) -> Backdoor | None:
        """The backdoor that somebody asks about, e.g. "patch:grid" and 5; a trigger file brings its own target.

        Raises:
            BadInput: no target, or one that is no class.
        """
        if not isinstance(trigger, str):
            return trigger
        classes = len(self.test.classes)
        known = Backdoor.load(trigger) if trigger.endswith(".json") else None
        target = known.target if target is None and known else target
        if target is None:
            raise BadInput(f"trigger {trigger} leads to which class? Type --target 0..{classes - 1}.")
        if not 0 <= target < classes:
            raise BadInput(f"target={target} is no class; there are {classes}: 0..{classes - 1}.")
        return replace(known, target=target) if known else Backdoor(make_trigger(trigger), target, name=trigger)

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
            control = open_suspect(control, (self.train, self.test), **self.opened).model
        return measure(self.model, self.test, backdoor, control=control)


def open_suspect(
    weights: str | Path | None,
    images: str | tuple[ImageSet, ImageSet],
    *,
    model: str | None = None,
    key: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    classes: str | Path | Sequence[str] | None = None,
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
        classes: names of the model's classes in its order, or a file with one a line, where the images number them
            otherwise, or have some of them only.
        head: False opens an encoder; the last layer of a classifier's checkpoint is left out.
        device: torch device on which the model is put.

    Raises:
        BadInput: no model is named and the file does not say, or weights or images do not fit.
        NotFound, UnsafeFile: as the parts raise them.
    """
    opened: dict[str, Any] = {"model": model, "key": key, "size": size, "channels": channels}
    opened |= {"normalize": normalize, "classes": classes, "head": head, "device": device}
    usable(device)
    if weights is None and not (model and ":" in model):
        raise BadInput("no weights are given; only a my.py:factory may bring its own. Type --weights FILE.")
    found = weights_in(weights) if weights else []  # an unsafe file stops before anything else
    record = read_record(weights) if weights else {}
    spec = spec_in(weights) if model is None and weights else None
    normalize = normalize or (record.get("spec") or {}).get("normalize")
    train, test = open_images(images, size=size, channels=channels) if isinstance(images, str | Path) else images
    if classes is not None:
        train, test = (renumbered(part, _names(classes)) for part in (train, test))
    # a stranger's network normalises in its own way or not at all; ours must not add statistics to it
    shape = {"classes": len(train.classes), "channels": train.x.shape[1], "size": train.x.shape[2:]}
    network = make_model(**(spec or {"name": model, **shape, "head": head}))
    if weights:
        gone = tuple(f"{path}." for path, module in network.named_modules() if isinstance(module, nn.Identity))
        said = normalize is not None or spec is not None
        fitted(network, found, weights, key=key, ignored=() if head else gone, normalized=said)
    if normalize:
        network = _normalized(network, Normalize(*normalize))
    (check_fits if head else check_encoder)(network, test)
    called = str(images) if isinstance(images, str | Path) else train.name
    taint = tuple(record.get("taint", ()))
    return Suspect(
        network.eval().to(device), train, test, taint, str(weights or model), called, opened, "taint" in record
    )


def _names(classes: str | Path | Sequence[str]) -> list[str]:
    """Of a sequence, or of a file with one a line."""
    if not isinstance(classes, str | Path):
        return list(classes)
    path = Path(classes)
    if not path.is_file():
        raise NotFound(f"no file of classes {path}. Write one with a name a line, in the model's order.")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


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

    def accuracy(network: nn.Module) -> float:
        return float((predict(network, images) == images.hard.cpu()).float().mean())

    found = {}
    for mean, std in STATISTICS.values():
        if len(mean) == images.x.shape[1]:
            first = Normalize(mean, std).to(next(suspect.model.parameters()).device)
            words = (",".join(map(str, part)) for part in (mean, std))
            found["--mean {} --std {}".format(*words)] = accuracy(nn.Sequential(first, suspect.model))
    plain, best = accuracy(suspect.model), max(found, key=found.__getitem__, default="")
    return (best, plain, found[best]) if best and found[best] >= plain + FINDING else None


def _normalized(network: nn.Module, first: Normalize) -> nn.Module:
    """Put statistics into the model: into its own Normalize, or as a layer in front of it."""
    if isinstance(getattr(network, "normalize", None), Normalize):
        network.normalize = first
        return network
    spec = {**getattr(network, "spec", {}), "normalize": [first.mean.flatten().tolist(), first.std.flatten().tolist()]}
    network = nn.Sequential(OrderedDict(normalize=first, model=network))
    network.spec = spec  # type: ignore[assignment]
    return network


def judged(found: Measurement) -> bool:
    """Whether a measurement says anything: no flag on it means that the model is no classifier of these images.

    A model at chance level, or one that calls everything the target, has no backdoor that could be told apart; nor has
    one that a defence destroyed.
    """
    return not {"acc-floor", "chance-level", "collapsed"} & {*found.flags}


def verdict(found: Measurement) -> bool:
    """Whether a measurement is a finding: the trigger moves the model by 10 points or more, beyond its control.

    TITG must reach 10 points, or a model that says the target to everything would be a finding; with a control,
    so must the lower end of carried's interval. A strong trigger can raise TITG on any model: without a control,
    the flag no-control stands beside the finding.
    """
    if found.titg is None or found.titg < FINDING:
        return False
    return found.carried_interval is None or found.carried_interval[0] >= FINDING


def write_artefact(out: str | Path, model: nn.Module, taint: tuple[str, ...], record: dict[str, Any]) -> Path:
    """Write a model as a folder: weights, record and model card; all or nothing. Return the weights' path.

    Raises:
        BadInput: the folder exists and is not empty.
        StoreError: it cannot be written.
    """
    name = artefact_name(taint)
    facts = {"distrust": __version__, "spec": getattr(model, "spec", None), "taint": list(taint), **record}
    files = {
        name: model_bytes(model, {"taint": list(taint)}),
        "record.json": json.dumps(facts, indent=1, default=str).encode() + b"\n",
        "README.md": _card(name, taint, facts).encode(),
    }
    return write_folder(out, files) / name


def _card(name: str, taint: tuple[str, ...], facts: dict[str, Any]) -> str:
    warning = (
        f"> **Tainted.** An attack is among this model's ancestors ({', '.join(taint)}). For research only.\n\n"
        if taint
        else "No attack is among this model's ancestors, as far as they are recorded.\n\n"
        if facts.get("origin") == "known"
        else "**Origin unknown.** It was made from a stranger's file, of whose ancestors nothing is recorded.\n\n"
    )
    rows = "\n".join(f"| {k} | `{json.dumps(v, default=str)}` |" for k, v in facts.items() if k != "spec")
    return f"# {name}\n\n{warning}| fact | value |\n|---|---|\n{rows}\n"
