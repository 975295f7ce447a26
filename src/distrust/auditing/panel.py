"""Panel: the detectors that an audit asks, of a suspect as of models that are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def looked(
    suspect: Suspect, clean: ImageSet, panel: Sequence[str], seed: int, tell: Tell, until: float | None = None
) -> tuple[Look, tuple[Finding, ...], dict[str, str]]:
    """What each detector says of a model: as a look, as findings, and why some said nothing.

    Args:
        suspect: the model.
        clean: what it is shown.
        panel: detectors with options.
        seed: of what they draw.
        tell: is called before each.
        until: when there is no time left, as `time.monotonic` has it.
    """
    found, skipped = list[Finding](), dict[str, str]()
    chosen = [(text, *_chosen(text)) for text in panel]  # all of them, before any work
    for text, method, options in chosen:
        needed = 0.0 if until is None else _seconds(method, options, suspect.model, clean)
        if until is not None and time.monotonic() + needed > until:
            skipped[text] = f"it takes about {needed / 60:.1f} minutes here. Type --minutes {2 + needed // 30:.0f}."
            continue
        tell(f"{text} …")
        try:
            finding = method.made(options)(suspect.model, clean, rng=rng("detect", seed))
        except (Skip, Diverged) as error:
            skipped[text] = str(error)
            continue
        if finding.unsure:
            skipped[text] = f"{finding.unsure}."
        else:
            found.append(finding)
    scores = {finding.detector: finding.score for finding in found}
    named = {finding.detector: finding.target for finding in found if len(finding.scores) > 1}
    return Look(scores, named, _like(suspect, clean)), tuple(found), skipped


def trusted(folder: Path, suspect: Suspect, panel: Sequence[str], seed: int, tell: Tell) -> Shelf:
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
        looks.append(looked(other, shown(other, seed), panel, seed, lambda line: None)[0])
    return Shelf(str(folder), tuple(looks), {"panel": [*panel]})


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
