"""Scan: ask a detector about a file that somebody hands us."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .checkpoints import Asked, Channels, Mean, Model, Size, Std
from .command import Key, Plugins, command
from .face import Face

USUAL = {"synthetic": "patch_probe", "classifier": "trigger_search", "encoder": "decree"}


@command
def scan(
    face: Face,
    file: Annotated[Path, typer.Argument(help="A synthetic set or, with --images, a checkpoint.")],
    detector: Annotated[
        str | None, typer.Option(help="patch_probe[permutations=19] for a set, trigger_search, decree for an encoder.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="A score from which on it is a finding.")] = None,
    units: Annotated[Literal["auto", "pixels", "normalised"], typer.Option(help="Of a set's pixels.")] = "auto",
    statistics: Annotated[str | None, typer.Option(help="By which they were normalised: cifar10, svhn …")] = None,
    labels: Annotated[Literal["auto", "logits"], typer.Option(help="Of a set's soft labels.")] = "auto",
    images: Annotated[str | None, typer.Option(help="Clean images to show a model: a directory, cifar10 …")] = None,
    model: Model = None,
    key: Key = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Ask a detector about a synthetic set or a model. Exit code 1: its score reaches the threshold, or p is 0.

    With neither a threshold nor permutations a score says nothing by itself, and the exit code is 3.
    """
    from ..data.synthetic import load_set
    from ..errors import BadInput
    from ..files import read_record
    from ..registry import registry
    from ..seeds import rng
    from ..selectors import parse_one

    for path in plugin:
        registry.add(path)
    given = "synthetic" if images is None and model is None else "classifier"
    if given != "synthetic" and (read_record(file).get("spec") or {}).get("head") is False:
        given = "encoder"
    selector = parse_one(detector or USUAL[given])
    method = registry.get("detectors", selector.name)
    options = method.check(selector.options)
    looks_at = given if method.mark.on == "any" else method.mark.on
    suspect: Any
    off = ""
    if looks_at == "synthetic":
        if images is not None:
            raise BadInput(f"{selector.name} looks at a synthetic set alone, not at a model on images. Leave --images.")
        suspect = clean = load_set(file, units=units, statistics=statistics, labels=labels).to(face.machine())
        off = "Its pixels leave 0..1." if clean.off_range else ""
    else:
        if images is None:
            raise BadInput(f"{selector.name} shows clean images to the {looks_at}. Type --images cifar10, or a folder.")
        asked = Asked(images, file, model, key, size, channels, mean, std, None, plugin)
        opened, _ = asked.open(None, head=looks_at == "classifier")
        suspect, clean = opened.model.to(face.machine()), opened.train
    with face.loop(selector.text):
        found = method.made(options)(suspect, clean, rng=rng("detect", face.seed))
    judged = threshold is not None or found.p is not None
    finding = (threshold is not None and found.score >= threshold) or found.p == 0
    most = sorted(range(len(found.scores)), key=lambda k: -found.scores[k])[:3]
    ranked = "classes: " + ", ".join(f"{clean.classes[k]} {found.scores[k]:.3g}" for k in most)
    facts = {**found.record(), "file": str(file), "images": len(clean), "threshold": threshold, "finding": finding}
    null = ", or [permutations=19] where it has them" if looks_at == "synthetic" else ""
    compare = "" if judged else f"Nothing to compare it with: type --threshold{null}."
    face.show(facts, str(found), ranked if len(most) > 1 else "", off, compare)
    return int(finding) if judged else 3
