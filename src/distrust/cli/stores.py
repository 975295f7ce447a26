"""Commands on a store: what lies in it, what may go, and how stages come into another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import distrust as dt

from .command import Budget, Face, Seeds, assignments, command, group

stored = group("store", "Look after a store: list, clean and verify it; take stages out of it, or into it.")

Studies = Annotated[list[Path] | None, typer.Argument(help="Only the stages of these study files.")]


@command
def export(
    face: Face,
    study: Annotated[str, typer.Argument(help="A study file, or demo.")],
    out: Annotated[Path | None, typer.Option(help="New archive or folder; default: the study's name and .zip.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Only what scoring needs: no models, no images.")] = False,
    budget: Budget = None,
    seeds: Seeds = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, as it was run.")] = None,
) -> int:
    """Pack a study for another machine: its file, its finished stages and its cells.

    Unpacked there, it is a folder in which the same command goes on; `distrust store import` takes it into a store.
    Exit code 1: some stages are damaged, and left out.
    """
    return _exported(
        face,
        dt.export(
            study, out, store=face.store, budget=budget, seeds=seeds, changes=assignments(change), scores=scores,
            first_seed=face.seed,
        ),
    )  # fmt: skip


@stored
def ls(
    face: Face,
    kind: Annotated[str | None, typer.Option(help="Only stages of this kind: teacher, attack, predict …")] = None,
    state: Annotated[str | None, typer.Option(help="Only those that are done, failed, skipped or damaged.")] = None,
    taint: Annotated[str | None, typer.Option(help="Only those behind which this attack stands.")] = None,
) -> int:
    """List the stages in a store: what they are, how big and how old, and which attacks stand behind them."""
    from ..reporting.text import duration

    asked = {name: value for name, value in (("kind", kind), ("state", state)) if value}
    rows = [row for row in dt.Store(face.store).ls() if all(row[name] == value for name, value in asked.items())]
    rows = [row for row in rows if not taint or taint in (row["taint"] or ())]
    lines = [
        f"{row['key'][:12]}  {row['state']:<8} {row['kind'] or '–':<10} {size(row['bytes']):>9}  "
        f"{duration(row['age']):>9} old  {'+'.join(row['taint'] or ()) or '–':<12} {row['label'] or row['error']}"
        for row in rows
    ]
    whole = sum(row["bytes"] for row in rows)
    facts = {"store": face.store, "stages": rows, "bytes": whole}
    return face.show(facts, *lines, f"{face.store}: {len(rows)} stages, {size(whole)}")


@stored
def gc(
    face: Face,
    keep: Annotated[list[Path] | None, typer.Option(help="Study file whose stages stay; repeatable.")] = None,
    budget: Budget = None,
    seeds: Seeds = None,
    days: Annotated[float, typer.Option(min=0, help="Stages that were set aside stay so many days.")] = 7.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this, only say what would go.")] = False,
) -> int:
    """Say what no study needs and, with --yes, remove it for good.

    Without --keep every stage stays, and only what killed runs left goes, and what was set aside long ago. With it,
    only the stages of those studies stay: of all their budgets, or of --budget, with their own seeds, or --seeds many.
    Cells and reports are never removed.
    """
    kept = dt.needed(*keep, budget=budget, seeds=seeds, first_seed=face.seed) if keep else None
    found = dt.Store(face.store).gc(kept, days=days, remove=yes)
    groups = {
        "stages": "stages",
        "set_aside": "stages that were set aside",
        "drafts": "drafts",
        "leftovers": "leftovers",
    }
    counts = [f"{len(found[name])} {what}" for name, what in groups.items() if found[name]]
    said = f"{', '.join(counts) or 'nothing'}, {size(found['bytes'])}"
    end = "removed" if yes else "would go; type the same with --yes to remove it" if counts else "would go"
    names = [f"  {name}" for group in groups for name in found[group]]
    return face.show(found, *names, f"{face.store}: {said} {end}")


@stored
def verify(face: Face) -> int:
    """Read every file in a store and compare it with its checksum. Exit code 1: something is damaged.

    Nothing is changed: a run of its study sets it aside and makes it anew.
    """
    found = dt.Store(face.store).verify()
    damaged = [f"  {key[:12]} cannot be used: {why}" for key, why in found["damaged"].items()]
    face.show(found, f"{face.store}: {found['stages']} stages are as they were written", *damaged)
    return 1 if damaged else 0


@stored
def export_(
    face: Face,
    out: Annotated[Path, typer.Argument(help="A new archive, FILE.zip, or a new folder.")],
    studies: Studies = None,
    budget: Budget = None,
    seeds: Seeds = None,
) -> int:
    """Copy stages, each verified, into an archive that `store import` takes. Exit code 1: some are damaged."""
    keys = dt.needed(*studies, budget=budget, seeds=seeds, first_seed=face.seed) if studies else None
    return _exported(face, dt.Store(face.store).export(out, None if keys is None else sorted(keys)))


@stored
def import_(
    face: Face,
    source: Annotated[Path, typer.Argument(help="What `export` wrote: an archive or a folder.")],
    to: Annotated[Path, typer.Option(help="Folder for the study file in it.")] = Path("."),
) -> int:
    """Take stages and cells from an archive. What is there stays; code is not run. Exit code 1: some are damaged."""
    found = dt.import_(source, store=face.store, to=to)
    lines = [f"{face.store}: {found['imported']} stages are new, {found['there']} were there, {found['cells']} cells"]
    lines += [f"Next: distrust run {name} --store {face.store}" for name in found["studies"]]
    face.show(found, *lines)
    return 1 if found["damaged"] else 0


def _exported(face: Face, found: dict[str, Any]) -> int:
    of = f" of {found['planned']}" if "planned" in found else ""
    beside = f", {found['cells']} cells" if "cells" in found else ""
    damaged = [f"  {key[:12]} is left out: {why}" for key, why in found["damaged"].items()]
    face.show(found, *damaged, f"{found['out']}: {found['stages']}{of} stages{beside}, {size(found['bytes'])}")
    return 1 if damaged else 0


def size(n: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"
