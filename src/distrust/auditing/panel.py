"""Panel: the detectors that an audit asks, of a suspect as of models that are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data import ImageSet
from ..errors import BadInput, Diverged, NotFound, Skip
from ..measurement import Finding, accuracy
from ..methods._costs import CLASSES
from ..models import frozen_mode
from ..registry import Method, registry
from ..seeds import rng
from ..selectors import parse_one
from .check import WEIGHTS
from .checkpoint import Suspect, is_classifier, open_suspect
from .purify import pupil
from .shelf import Look, Shelf

Tell = Callable[[str], None]

PANEL = {  # what is asked, the cheapest first
    "classifier": ("l2_tac", "mmbd[steps=80,images=10]", "twins"),
    "encoder": ("decree",),
    "synthetic": ("patch_probe[permutations=19]",),
}
MOST = 1000  # clean images that a panel is shown
TIMED = 32  # images of the step by which its time is estimated


def shown(suspect: Suspect, seed: int) -> ImageSet:
    """The clean images that a panel is shown."""
    train = suspect.train
    return train if len(train) <= MOST else train.fraction(MOST / len(train), rng("audit", seed))


class Looked(NamedTuple):
    """What a panel says of a model, and of the students that it taught."""

    look: Look
    findings: tuple[Finding, ...]
    skipped: dict[str, str]  # what said nothing → why
    students: dict[str, Suspect]  # distiller → whom it taught


def looked(
    suspect: Suspect,
    clean: ImageSet,
    panel: Sequence[str],
    seed: int,
    tell: Tell,
    until: float | None = None,
    students: Sequence[str] = (),
) -> Looked:
    """What each detector says of a model and, as `detector@distiller`, of its students.

    Args:
        suspect: the model.
        clean: what it is shown.
        panel: detectors with options.
        seed: of what they draw.
        tell: is called before each.
        until: when there is no time left, as `time.monotonic` has it.
        students: distillers with options, each of which teaches a student of the suspect's architecture.
    """
    found, skipped = list[Finding](), dict[str, str]()
    chosen = [(text, *_chosen(text)) for text in panel]  # all of them, before any work
    taught, like = dict[str, Suspect](), _like(suspect, clean)

    def ask(whom: Suspect, at: str = "") -> None:
        for text, method, options in chosen:
            needed = 0.0 if until is None else _seconds(method, options, whom.model, clean)
            if until is not None and time.monotonic() + needed > until:
                least = f"Type --minutes {2 + needed // 30:.0f}."
                skipped[text + at] = f"it takes about {needed / 60:.1f} minutes here. {least}"
                continue
            tell(f"{text}{at} …")
            try:
                finding = method.made(options)(whom.model, clean, rng=rng("detect", seed))
            except (Skip, Diverged) as error:
                skipped[text + at] = str(error)
                continue
            if finding.unsure:
                skipped[text + at] = f"{finding.unsure}."
            else:
                found.append(replace(finding, detector=finding.detector + at))

    ask(suspect)
    for text in students:
        name = parse_one(text).name
        if until is not None and time.monotonic() > until:
            skipped[f"a student by {name}"] = "there is no time left. Type a larger number after --minutes."
            continue
        tell(f"a student by {name} …")
        try:
            taught[name] = replace(suspect, model=pupil(network(suspect), suspect, text, seed))
        except Diverged as error:
            skipped[f"a student by {name}"] = str(error)
            continue
        like |= {} if suspect.own else {f"acc@{name}": accuracy(taught[name].model, suspect.test)}
        ask(taught[name], f"@{name}")
    scores = {finding.detector: finding.score for finding in found}
    named = {finding.detector: finding.target for finding in found if len(finding.scores) > 1}
    return Looked(Look(scores, named, like), tuple(found), skipped, taught)


def network(suspect: Suspect) -> str:
    """The name of the architecture that students of it get: its own, if that has a name here."""
    return str(getattr(suspect.model, "spec", {}).get("name", "wrn16-1"))


def trusted(
    folder: Path, suspect: Suspect, panel: Sequence[str], seed: int, tell: Tell, students: Sequence[str] = ()
) -> Shelf:
    """A shelf of all weights in a folder, which are opened as the suspect was, and looked at as it is.

    Raises:
        BadInput: there are none, or they are of another kind than the suspect.
        UnsafeFile: opening one would run something.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS)
    if not files:
        raise BadInput(f"no weights lie in {folder}. Put models there that you trust, of the suspect's architecture.")
    looks, opened = list[Look](), {**suspect.opened, "classes": None}
    for i, path in enumerate(files, 1):
        tell(f"{path.name}, which you trust, {i} of {len(files)}")
        try:
            other = open_suspect(path, (suspect.train, suspect.test), **opened)
        except NotFound:  # the suspect's key: there may be but one set of weights here
            other = open_suspect(path, (suspect.train, suspect.test), **{**opened, "key": None})
        looks.append(looked(other, shown(other, seed), panel, seed, lambda line: None, students=students).look)
    return Shelf(str(folder), tuple(looks), {"panel": [*panel], "students": [*students]})


def _chosen(text: str) -> tuple[Method, dict[str, Any]]:
    selector = parse_one(text)
    method = registry.get("detectors", selector.name)
    return method, method.check(selector.options)


def _like(suspect: Suspect, clean: ImageSet) -> dict[str, float]:
    """What the suspect is like that has nothing to do with a backdoor."""
    if not is_classifier(suspect):
        return {}
    facts = registry.get("metrics", "nuisance").call(model=suspect.model, clean=clean)
    return dict(facts) if suspect.own else {"acc": accuracy(suspect.model, suspect.test), **facts}


def _seconds(method: Method, options: Mapping[str, Any], model: nn.Module, clean: ImageSet) -> float:
    """About how long a detector takes here, by a step of training, and by what its mark says of its cost."""
    x = clean.pixels(slice(0, TIMED)).to(next(model.parameters()).device)
    with frozen_mode(model), torch.enable_grad():
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            model(x.clone().requires_grad_()).sum().backward()
            each = (time.perf_counter() - began) / len(x)
    return each * method.cost(dict(options), len(clean)) * len(clean.classes) / CLASSES
