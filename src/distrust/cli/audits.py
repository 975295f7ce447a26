"""Audit: the command for whoever knows of no trigger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import distrust as dt

from ..files import free, replaceable, write_file
from .checkpoints import Network, Pixels
from .command import Face, command


@command
def audit(
    face: Face,
    asked: Network,
    pixels: Pixels,
    file: Annotated[Path, typer.Argument(help="A checkpoint, with --images, or a synthetic set.")],
    images: Annotated[str | None, typer.Option(help="Clean images to show a model: a directory, cifar10 …")] = None,
    shelf: Annotated[
        str | None, typer.Option(help="A folder of weights that you trust, or a shelf that comes along.")
    ] = None,
    panel: Annotated[list[str] | None, typer.Option(help="A detector to ask; may be given several times.")] = None,
    student: Annotated[list[str] | None, typer.Option(help="Judge what it teaches by a distiller, too: kd.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Ask no detector that takes longer.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for a page, and the trigger that was found.")] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write the finding as SARIF 2.1.0 into this file.")] = None,
    bom: Annotated[Path | None, typer.Option(help="Write an ML-BOM, CycloneDX 1.6, into this file.")] = None,
) -> int:
    """Can this model or set be trusted? Compares it with known ones. Exit code 1: suspicious or backdoored.

    Exit code 0: clean-looking, which does not mean that it is clean. Exit code 3: inconclusive, as there are too few
    known models like it, it took too long, or nothing could be judged of it.
    """
    if out:
        free(out)
    for wanted in (sarif, bom):
        if wanted:
            replaceable(wanted)
    with face.loop(f"audit {file}"):
        said = dt.audit(
            file, images, shelf=shelf, panel=panel, students=student or (), minutes=minutes, seed=face.seed,
            device=face.device, tell=face.say, **(asked.opened() if images else vars(pixels)),
        )  # fmt: skip
    facts = said.record() | ({"page": str(said.save(out))} if out else {})
    for wanted, as_it in ((sarif, said.sarif), (bom, said.bom)):
        if wanted:
            write_file(wanted, json.dumps(as_it(), indent=1).encode())
    face.show(facts, *str(said).split("\n"), f"page: {facts['page']}" if out else "")
    return said.code
