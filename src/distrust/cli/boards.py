"""Commands on the carry-over board: build the site, and enter results of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import distrust as dt

from .command import Face, Overwrite, group

boarded = group("board", "The carry-over board: build it from results and entries, and enter results of yours.")


@boarded
def build(
    face: Face,
    results: Annotated[Path, typer.Argument(help="A folder of cells, or of such folders.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder of the site.")] = Path("site/board"),
    entries: Annotated[
        list[Path] | None, typer.Option(help="Entry of others, or a folder of them; repeatable. Usual: ./entries.")
    ] = None,
    claims: Annotated[Path | None, typer.Option(help="Papers' claims. Usual: docs/claims.json.")] = None,
    overwrite: Overwrite = False,
) -> int:
    """Write a static site: what is carried, attack by distiller, with a page for each study, method and paper.

    It opens from a file and from any static host. What is finished is read; nothing is run.
    """
    site = dt.build_board(results, out, entries=entries, claims=claims, overwrite=overwrite)
    return face.show({**site._asdict(), "out": str(site.out)}, str(site))


@boarded
def submit(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A results folder, or a study's name.")],
    by: Annotated[str, typer.Option(help="Who answers for it, as the board shows it.")],
    out: Annotated[Path | None, typer.Option(help="The entry; usual: entries/STUDY.json.")] = None,
    source: Annotated[str, typer.Option(help="Address of the method or its paper, https://….")] = "",
    overwrite: Overwrite = False,
) -> int:
    """Write an entry for the board from a run, if it keeps the protocol.

    Three seeds or more, a control arm, choices on validation images only. Name methods of yours by --plugin, unless a
    package brings them.
    """
    out = out or Path("entries") / f"{study.name}.json"
    made = dt.submit(study, out, by=by, source=source, store=face.store, overwrite=overwrite)
    methods = [f"{one.kind}/{one.name} {one.version} ({one.package})" for one in made.methods]
    facts = {"entry": str(out), "cells": len(made.cells), "methods": methods, "pictures": len(made.pictures)}
    return face.show(
        facts, *methods, f"{out}: {len(made.cells)} cells by {by}", f"Next: distrust board build --entries {out}"
    )
