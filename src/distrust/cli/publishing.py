"""Commands for a paper: a study as a table, a figure, an entry of a bibliography."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import distrust as dt

from .command import Budget, Face, Overwrite, Seeds, command

StudyName = Annotated[Path, typer.Argument(help="A study file, a results folder, or a study's name.")]
Rows = Annotated[
    list[str] | None,
    typer.Option(help="AXIS=ENTRY: only rows with it, in this order, e.g. defense=nad; repeatable."),
]


@command
def table(
    face: Face,
    study: StudyName,
    format: Annotated[str, typer.Option(help="text, markdown, latex, html or csv.")] = "text",
    columns: Annotated[str, typer.Option(help="Which, with commas between, e.g. acc,asr,carried; or all.")] = "",
    rows: Rows = None,
    intervals: Annotated[str, typer.Option(help="runs (each, of fewer than five), t (always 95 %), or none.")] = "runs",
    budget: Budget = None,
    seeds: Seeds = None,
) -> int:
    """Print a study as a table over seeds, for a paper or a page."""
    words = [word.strip() for word in columns.split(",") if word.strip()]
    found = dt.table(
        study, words, _chosen(rows), intervals, store=face.store, budget=budget, seeds=seeds, first_seed=face.seed
    )
    told = found.to(format).rstrip("\n")
    facts = {"columns": [field.key for field in found.fields], "rows": found.records(), "table": told}
    return face.show(facts, *(line or " " for line in told.split("\n")))


@command
def figure(
    face: Face,
    study: StudyName,
    kind: Annotated[str, typer.Argument(help="map, frontier, curve or triggers.")],
    out: Annotated[Path, typer.Option(help="A .pdf, .svg or .png.")] = Path("figure.pdf"),
    rows: Rows = None,
    metric: Annotated[str, typer.Option(help="Of a map or a curve, e.g. asr.")] = "carried",
    over: Annotated[str, typer.Option(help="Option along which a curve goes, e.g. rate.")] = "",
    budget: Budget = None,
    seeds: Seeds = None,
    overwrite: Overwrite = False,
) -> int:
    """Draw a study, for a paper or a page."""
    dt.figure(
        study, kind, out, rows=_chosen(rows), metric=metric, over=over, overwrite=overwrite, store=face.store,
        budget=budget, seeds=seeds, first_seed=face.seed,
    )  # fmt: skip
    return face.show({"figure": str(out), "kind": kind}, f"{out}: {kind} of {study}")


@command
def cite(
    face: Face,
    study: Annotated[Path | None, typer.Argument(help="A study file, a results folder, or a study's name.")] = None,
    cell: Annotated[str, typer.Option(help="The id of one of its cells, or its beginning.")] = "",
    budget: Budget = None,
    seeds: Seeds = None,
) -> int:
    """Print BibTeX for Distrust, a study and a cell, each with its version."""
    told = dt.cite(study, cell, store=face.store, budget=budget, seeds=seeds, first_seed=face.seed)
    return face.show({"bibtex": told}, *(line or " " for line in told.split("\n")))


def _chosen(texts: list[str] | None) -> dict[str, list[str]]:
    """`defense=nad[beta=0]` as axis → entries."""
    found: dict[str, list[str]] = {}
    for text in texts or ():
        axis, sign, entry = text.partition("=")
        if not sign:
            raise typer.BadParameter(f"--rows {text}: write AXIS=ENTRY, e.g. --rows defense=nad.")
        found.setdefault(axis.strip(), []).append(entry.strip())
    return found
