"""Scan: ask a detector about a synthetic set or a model that somebody hands us."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data import ImageSet
from ..data.synthetic import experiments, load_set
from ..devices import usable
from ..errors import BadInput
from ..measurement import Finding
from ..registry import registry
from ..seeds import rng
from ..selectors import parse_one
from ..tensors import read_record
from .checkpoint import Suspect, open_suspect

USUAL = {"synthetic": "patch_probe", "classifier": "trigger_search", "encoder": "decree"}


@dataclass(frozen=True)
class Scan:
    """What a detector says of a suspect, and whether that can be judged.

    Args:
        finding: the detector's answer.
        source: the file.
        kind: what was looked at: "synthetic", "classifier" or "encoder".
        images: what the detector was given: clean images, or the set itself.
        threshold: a score from which on it is a finding; None: only the detector's own null judges.
    """

    finding: Finding
    source: str
    kind: str
    images: ImageSet = field(repr=False)
    threshold: float | None = None

    @property
    def judged(self) -> bool:
        """There is a score, and something to compare it with."""
        return math.isfinite(self.finding.score) and (self.threshold is not None or self.finding.p is not None)

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

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        facts = {"file": self.source, "images": len(self.images), "threshold": self.threshold, "finding": self.found}
        return self.finding.record() | facts

    def __str__(self) -> str:
        lines = [str(self.finding)]
        if most := self.ranked[:3]:
            lines.append("classes: " + ", ".join(f"{name} {score:.3g}" for name, score in most))
        if self.images.off_range:
            lines.append("Its pixels leave 0..1.")
        if not self.judged:
            null = ", or [permutations=19] where it has them" if self.kind == "synthetic" else ""
            lines.append(f"Nothing to compare it with: type --threshold{null}.")
        return "\n".join(lines)


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
    seed: int = 0,
    device: str = "cpu",
    **opened: Any,
) -> Scan:
    """Ask a detector about a synthetic set, or about a model that is shown clean images.

    Args:
        suspect: a file, a set as `load_set` returns it, or what `open_suspect` returned.
        detector: with options, e.g. "patch_probe[permutations=19]"; default patch_probe for a set, trigger_search for
            a classifier, decree for an encoder that Distrust wrote.
        threshold: a score from which on it is a finding; take it from clean suspects of the same kind and size.
        units: of the pixels of a set's file, as `load_set` takes them, like the next two.
        statistics: by which they were normalised, e.g. "cifar10".
        labels: of a set's soft labels.
        experiment: which of the sets in a file, 0 the first; where there are several, one has to be chosen.
        images: clean images to show the model of a file.
        seed: of what the detector draws.
        device: torch device of the work; a suspect that is open stays where it is.
        **opened: of a model's file: `model`, `key`, … as `open_suspect` takes them.

    Raises:
        NotFound, BadInput, UnsafeFile: an unknown detector or option, images that it lacks or does not want, or as
            `load_set` and `open_suspect`.
    """
    if isinstance(suspect, Suspect):
        source, head = suspect.source, suspect.opened.get("head", True)
    elif isinstance(suspect, ImageSet):
        source, head = suspect.name, None
    else:
        source, spec = str(suspect), read_record(suspect).get("spec") or {}
        head = None if images is None and opened.get("model") is None else spec.get("head", True)
    given = "synthetic" if head is None else "classifier" if head else "encoder"
    selector = parse_one(detector or USUAL[given])
    method = registry.get("detectors", selector.name)
    options = method.check(selector.options)
    kind = given if method.mark.on == "any" else method.mark.on
    looked: Any
    if kind == "synthetic":
        if images is not None or isinstance(suspect, Suspect):
            raise BadInput(f"{selector.name} looks at a synthetic set alone, not at a model on images. Leave --images.")
        if not isinstance(suspect, ImageSet):
            if experiment is None and (several := experiments(suspect)) > 1:
                raise BadInput(
                    f"{suspect} holds {several} synthetic sets. Each may be poisoned otherwise. Choose one, and scan "
                    f"each: --experiment 0 to --experiment {several - 1} (in Python, experiment=0)."
                )
            suspect = load_set(suspect, units=units, statistics=statistics, labels=labels, experiment=experiment)
        looked = clean = suspect.to(usable(device))
    else:
        if isinstance(suspect, str | Path) and images is not None:
            suspect = open_suspect(suspect, images, **opened, head=kind == "classifier", device=device)
        if not isinstance(suspect, Suspect):
            raise BadInput(f"{selector.name} shows clean images to the {kind}. Type --images cifar10, or a folder.")
        looked, clean = suspect.model, suspect.train
    finding = method.made(options)(looked, clean, rng=rng("detect", seed))
    return Scan(finding, source, kind, clean, threshold)
