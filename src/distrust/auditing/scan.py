"""Scan: ask a detector about a synthetic set or a model that somebody hands us."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..data import ImageSet
from ..data.synthetic import experiments, load_set
from ..devices import usable
from ..door import weights_in
from ..errors import BadInput, DistrustError
from ..files import write_folder
from ..measurement import Backdoor, Finding, Measurement
from ..pictures import sheet
from ..registry import registry
from ..seeds import rng
from ..selectors import parse_one
from ..tensors import read_record
from .checkpoint import Suspect, is_classifier, open_suspect

USUAL = {"synthetic": "patch_probe", "classifier": "neural_cleanse", "encoder": "decree"}


@dataclass(frozen=True)
class Scan:
    """What a detector says of a suspect, and whether that can be judged.

    Args:
        finding: the detector's answer.
        source: the file.
        kind: what was looked at: "synthetic", "classifier" or "encoder".
        images: what the detector was given: clean images, or the set itself.
        threshold: a score from which on it is a finding; None: only the detector's own null judges.
        measured: what a classifier measures without a trigger, before it was scanned; else None.
        hints: what may be missing, as `distrust.hints` says: the model perhaps sees other images than it should.
    """

    finding: Finding
    source: str
    kind: str
    images: ImageSet = field(repr=False)
    threshold: float | None = None
    measured: Measurement | None = None
    hints: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """There is a score, and something to compare it with; none clears a model that perhaps sees other images."""
        sure = math.isfinite(self.finding.score) and not self.finding.unsure
        compared = self.threshold is not None or self.finding.p is not None
        return sure and compared and (self.found or not self.hints)

    @property
    def found(self) -> bool:
        """The score reaches the threshold, or nothing in the detector's null scores as high."""
        return (self.threshold is not None and self.finding.score >= self.threshold) or self.finding.p == 0

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """Classes with their scores, the most suspicious first; none of an encoder, which has no classes."""
        scores = self.finding.scores
        order = sorted(range(len(scores)), key=lambda k: -scores[k])
        return [(self.images.classes[k], scores[k]) for k in order] if len(scores) > 1 else []

    def save(self, out: str | Path) -> Path:
        """Write what was found into a new folder, all or nothing; return the path of its found.json.

        `found.json` with `found.safetensors` is a trigger's file, as `Backdoor.load` reads it; `found.png` shows
        pattern times mask, and images without and with it.

        Raises:
            BadInput: the folder exists and is not empty, or nothing was found that could be kept.
            StoreError: it cannot be written.
        """
        if (found := self.finding.backdoor) is None:
            raise BadInput(f"{self.finding.detector} found no trigger that could be kept. Leave --out.")
        text, tensors = found.dump()
        files = {"found.json": text.encode(), "found.safetensors": tensors, "found.png": picture(self.images, found)}
        return write_folder(out, files) / "found.json"

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        facts = {"file": self.source, "images": len(self.images), "threshold": self.threshold, "finding": self.found}
        facts |= {"acc": self.measured.acc} if self.measured else {}
        return self.finding.record() | facts

    def __str__(self) -> str:
        lines = [str(self.measured)] if self.measured and self.measured.acc is not None else []
        lines.append(str(self.finding))
        if most := self.ranked[:3]:
            lines.append("classes: " + ", ".join(f"{name} {score:.3g}" for name, score in most))
        if self.images.off_range:
            lines.append("Its pixels leave 0..1.")
        if self.finding.unsure:
            lines.append(f"The score says nothing: {self.finding.unsure}.")
        elif not math.isfinite(self.finding.score):
            lines.append("The score is no number, so that nothing is judged.")
        elif self.hints and not self.judged:
            unknown = self.measured is not None and self.measured.acc is None
            told = ["ACC is not known, so that nothing is cleared."] if unknown else ["Nothing is cleared before this:"]
            lines.append(" ".join(told if unknown else [*told, *self.hints]))
        elif not self.judged:
            null = ", or [permutations=19] where it has them" if self.kind == "synthetic" else ""
            lines.append(f"Nothing to compare it with: type --threshold{null}.")
        return "\n".join(line.replace("\n", " ") for line in lines)


def picture(images: ImageSet, backdoor: Backdoor, shown: int = 4, least: int = 96) -> bytes:
    """A PNG: what is put on images, around mid grey where it is added, then pairs of one without and with it."""
    x = images.pixels(slice(0, shown)).cpu()
    options: Any = backdoor.trigger.recipe
    added = options.get("perturbation")
    put = (
        options["pattern"] * options["mask"] if added is None else 0.5 + added / (2 * added.abs().max().clamp(min=1e-9))
    )
    return sheet([torch.stack([put.expand_as(x[0]), *torch.stack([x, backdoor.stamp_on(x)], 1).flatten(0, 1)])], least)


def scan(
    suspect: Suspect | ImageSet | str | Path,
    detector: str | None = None,
    *,
    threshold: float | None = None,
    units: Literal["auto", "pixels", "normalised"] = "auto",
    statistics: str | None = None,
    labels: Literal["auto", "logits"] = "auto",
    experiment: int | None = None,
    images: str | tuple[ImageSet, ImageSet] | None = None,
    keep: bool = False,
    seed: int = 0,
    device: str = "cpu",
    **opened: Any,
) -> Scan:
    """Ask a detector about a synthetic set, or about a model that is shown clean images.

    Args:
        suspect: a file, a set as `load_set` returns it, or what `open_suspect` returned.
        detector: with options, e.g. "patch_probe[permutations=19]"; default patch_probe for a set, neural_cleanse for
            a classifier, decree for an encoder that Distrust wrote.
        threshold: a score from which on it is a finding; take it from clean suspects of the same kind and size.
        units: of the pixels of a set's file, as `load_set` takes them, like the next two.
        statistics: by which they were normalised, e.g. "cifar10".
        labels: of a set's soft labels.
        experiment: which of the sets in a file, 0 the first; where there are several, one has to be chosen.
        images: clean images to show the model of a file.
        keep: what is found is to be saved: a detector that searches for no trigger is refused before any work.
        seed: of what the detector draws.
        device: torch device of the work; a suspect that is open stays where it is.
        **opened: of a model's file: `model`, `key`, … as `open_suspect` takes them.

    Raises:
        NotFound, BadInput, UnsafeFile: an unknown detector or option, images that it lacks or does not want, or as
            `load_set` and `open_suspect`.
        Skip: a classifier at chance level on the images, of which nothing can be judged.
    """
    if isinstance(suspect, Suspect):
        source, head = suspect.source, is_classifier(suspect)
    elif isinstance(suspect, ImageSet):
        source, head = suspect.name, None
    else:
        source = str(suspect)
        head = None if images is None and opened.get("model") is None else is_classifier(suspect)
    given = "synthetic" if head is None else "classifier" if head else "encoder"
    selector = parse_one(detector or USUAL[given])
    method = registry.get("detectors", selector.name)
    options = method.check(selector.options)
    kind = given if method.mark.on == "any" else method.mark.on
    if keep and not method.mark.finds:
        able = ", ".join(name for name, other in registry.kind("detectors").items() if other.mark.finds)
        raise BadInput(f"{selector.name} searches for no trigger that could be kept. Leave --out, or ask {able}.")
    looked: Any
    measured, said = None, list[str]()
    if kind == "synthetic":
        if images is not None or isinstance(suspect, Suspect):
            raise BadInput(f"{selector.name} looks at a synthetic set alone, not at a model on images. Leave --images.")
        if not isinstance(suspect, ImageSet):
            file = suspect
            try:
                if experiment is None and (several := experiments(file)) > 1:
                    raise BadInput(
                        f"{file} holds {several} synthetic sets. Each may be poisoned otherwise. Choose one, and scan "
                        f"each: --experiment 0 to --experiment {several - 1} (in Python, experiment=0)."
                    )
                suspect = load_set(file, units=units, statistics=statistics, labels=labels, experiment=experiment)
            except BadInput as error:
                raise BadInput(_weights_told(file) or str(error)) from None
        looked = clean = suspect.to(usable(device))
    else:
        if isinstance(suspect, str | Path) and images is not None:
            if "set" in read_record(suspect):
                raise BadInput(f"{suspect} is a synthetic set, which is scanned alone. Leave --images and --model.")
            suspect = open_suspect(suspect, images, **opened, head=kind == "classifier", device=device)
        if not isinstance(suspect, Suspect):
            raise BadInput(f"{selector.name} shows clean images to the {kind}. Type --images cifar10, or a folder.")
        looked, clean = suspect.model, suspect.train
        if kind == "classifier":
            measured, said = suspect.checked()
    finding = method.made(options)(looked, clean, rng=rng("detect", seed))
    return Scan(finding, source, kind, clean, threshold, measured, tuple(said))


def _weights_told(file: str | Path) -> str:
    """What is missing where a file holds a model in place of a synthetic set; "" if it holds none."""
    try:
        found = weights_in(file)
    except DistrustError:
        return ""
    if not any(name.endswith("weight") for one in found for name in one.tensors):
        return ""
    known = "" if read_record(file).get("spec") else "; and name the model: --model wrn16-1, or --model my.py:factory"
    return f"{file} holds weights, no synthetic set. Show the model clean images: --images cifar10, or a folder{known}."
