"""Commands on a synthetic set, ours or a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..faces import Face
from .command import Plugins, command


@command
def scan(
    face: Face,
    file: Annotated[Path, typer.Argument(help=".safetensors of ours; .pt, .pth or .npz of a paper's code.")],
    detector: Annotated[str, typer.Option(help="patch_probe, or 'patch_probe[networks=5,permutations=19]'.")] = (
        "patch_probe"
    ),
    threshold: Annotated[float | None, typer.Option(help="A score from which on it is a finding.")] = None,
    units: Annotated[Literal["auto", "pixels", "normalised"], typer.Option(help="Of a stranger's pixels.")] = "auto",
    statistics: Annotated[str | None, typer.Option(help="By which they were normalised: cifar10, svhn …")] = None,
    labels: Annotated[Literal["auto", "logits"], typer.Option(help="Of soft labels.")] = "auto",
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Ask a detector about a synthetic set. Exit code 1: its score reaches the threshold, or no permuted set's does.

    With neither a threshold nor permutations a score says nothing by itself, and the exit code is 3.
    """
    from ..errors import BadInput
    from ..methods import registry
    from ..seeds import rng
    from ..selectors import parse_one
    from ..synthetic import load_set

    for path in plugin:
        registry.add(path)
    selector = parse_one(detector)
    method = registry.get("detectors", selector.name)
    if method.mark.on != "synthetic":
        raise BadInput(f"{selector.name} looks at a {method.mark.on}, and scan at a synthetic set: patch_probe.")
    options = method.check(selector.options)
    images = load_set(file, units=units, statistics=statistics, labels=labels).to(face.machine())
    with face.loop(detector):
        found = method.call(images, images, **options, rng=rng("detect", face.seed))
    judged = threshold is not None or found.p is not None
    finding = (threshold is not None and found.score >= threshold) or found.p == 0
    most = sorted(range(len(found.scores)), key=lambda k: -found.scores[k])[:3]
    ranked = ", ".join(f"{images.classes[k]} {found.scores[k]:.3g}" for k in most)
    facts = {**found.record(), "file": str(file), "images": len(images), "threshold": threshold, "finding": finding}
    compare = "" if judged else "Nothing to compare it with: type --threshold, or [permutations=19] where it has them."
    off = "Its pixels leave 0..1." if images.off_range else ""
    face.show(facts, str(found), f"classes: {ranked}", off, compare)
    return int(finding) if judged else 3
