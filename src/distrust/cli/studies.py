"""Commands on studies: run them, show what came out, and what the store holds."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

import distrust as dt

from .command import Budget, Face, ReportFile, Seeds, command


@command
def demo(face: Face, report: ReportFile = Path("report.html")) -> int:
    """Run the main job on scikit-learn's bundled digits, in a minute, and write report.html."""
    return _run(face, "demo", report=report)


@command
def run(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A study file, e.g. studies/nad-mini.toml.")],
    budget: Budget = None,
    seeds: Seeds = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE in place of an entry of the study; repeatable.")
    ] = None,
    only: Annotated[str, typer.Option(help="Only the cells whose id begins so.")] = "",
    results: Annotated[Path | None, typer.Option(help="Folder for the cells (default: in the store).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report here too.")] = None,
    expect: Annotated[Path | None, typer.Option(help="Compare with these results; 1 if they differ.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan and cost, then stop.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed or was skipped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run everything again.")] = False,
    only_cached: Annotated[bool, typer.Option("--only-cached", help="Run nothing; show what is there.")] = False,
) -> int:
    """Run a study: what is finished is kept, and the same command goes on after any interruption."""
    if retry + force + only_cached > 1:
        raise typer.BadParameter("--retry, --force and --only-cached exclude each other.")
    mode = "retry" if retry else "force" if force else "only-cached" if only_cached else "resume"
    return _run(
        face, study, report, dry_run, budget=budget, seeds=seeds, changes=dict(map(_assignment, change or ())),
        only=only, results=results, expect=expect, mode=mode,
    )  # fmt: skip


def _assignment(text: str) -> tuple[str, Any]:
    """`seeds=1`, `attack=["none"]`, `budget=cpu`: a line of TOML, whose words need no quotes."""
    name, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(
            f"--set {text}: write NAME=VALUE, e.g. --set budget=cpu or --set 'images=[\"gtsrb\"]'."
        )
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _run(face: Face, study: str | Path, report: Path | None, dry_run: bool = False, **asked: Any) -> int:
    planned = dt.plan(study, store=face.store, jobs=face.jobs, device=face.device, first_seed=face.seed, **asked)
    facts, cost = planned.record(), str(planned)
    planned.check()
    if dry_run:
        return face.show(facts, cost)
    face.say(cost)
    with face.progress(planned.waiting) as tell:
        found = planned.run(tell)
    facts |= {name: getattr(found.outcome, name) for name in ("ran", "cached", "failed", "skipped")}
    facts |= {"results": str(found.folder)}
    if report:
        dt.report(found, report, made_by=_typed())
        facts |= {"report": str(report)}
    facts |= {"differences": found.differences, "answer": found.answer}
    face.show(facts, str(found), *found.differences, f"Report: {report}" if report else "")
    states = {cell["state"] for cell in found.cells}
    return 1 if found.differences else 2 if "failed" in states else 0 if "done" in states else 3


def _typed() -> str:
    """The command line, for whoever reads the report."""
    return shlex.join(["distrust", *sys.argv[1:]])


@command
def results(face: Face, folder: Annotated[Path, typer.Argument(help="A results folder, or a study's name.")]) -> int:
    """Show the cells of a study, over seeds, with intervals and flags."""
    found = dt.results(folder, store=face.store)
    return face.show({"cells": found.cells, "answer": found.answer}, str(found))


@command
def report(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A study file, a results folder, or a study's name.")],
    out: ReportFile = Path("report.html"),
    budget: Budget = None,
    seeds: Seeds = None,
) -> int:
    """Write one HTML file that shows a study, from what the store or the results folder has."""
    shown = dt.report(study, out, store=face.store, budget=budget, seeds=seeds, first_seed=face.seed, made_by=_typed())
    n = len(shown.cells)
    return face.show({"report": str(out), "cells": n}, f"{out}: {n} cells")


@command
def status(face: Face) -> int:
    """Show what the store holds: stages by kind and state, their cost, and what failed."""
    from ..reporting.text import duration
    from ..study import Store

    facts = Store(face.store).status()
    lines = [f"{facts['store']}: {facts['stages']} stages, {duration(facts['seconds'])} of work"]
    lines += [f"  {what}: {n}" for what, n in facts["by_kind"].items()]
    return face.show(facts, *lines, *(f"  {key[:12]} {error}" for key, error in facts["failed"].items()))


@command
def why(face: Face, key: Annotated[str, typer.Argument(help="A stage's key, or its beginning.")]) -> int:
    """Show how a stage came to be: its recipe, its parents, its flags and its seconds."""
    from ..study import Store

    store = Store(face.store)
    key, record = store.find(key)
    lines = [f"{key}  {record['label']}  {record['state']}  {record['seconds']} s"]
    ancestors = list(record["parents"])
    for ancestor in ancestors:  # grows on the way
        of = store.record(ancestor) or {"label": "gone", "parents": [], "seconds": 0}
        lines.append(f"  ← {ancestor[:12]}  {of['label']}  {of['seconds']} s")
        ancestors += [key for key in of["parents"] if key not in ancestors]
    recipe = json.dumps(record["recipe"], indent=1)
    return face.show({"key": key, **record}, *lines, recipe, *([record["error"]] if "error" in record else []))
