"""Commands on studies: run them, show what came out, and what the store holds."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import distrust as dt

from ..errors import DistrustError
from ..files import replaceable
from .command import Budget, Face, Overwrite, ReportFile, Seeds, assignments, command


@command
def demo(face: Face, report: ReportFile = Path("report.html"), overwrite: Overwrite = False) -> int:
    """Run the main job on scikit-learn's bundled digits, in a minute, and write report.html."""
    return _run(face, "demo", report, overwrite)


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
    expect: Annotated[
        Path | None, typer.Option(help="Compare with these results and write no cells; 1 if they differ.")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan and cost, then stop.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed or was skipped.")] = False,
    stage_timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds after which a stage that is not done is ended and has failed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run everything again.")] = False,
    only_cached: Annotated[bool, typer.Option("--only-cached", help="Run nothing; show what is there.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Let Ray carry out the stages: on the cluster whose head node is at HOST:PORT; auto: on the one that "
            "runs here; without an address, on this machine alone.",
        ),
    ] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores, and threads, that a stage asks Ray for.")] = None,
    gpus: Annotated[float | None, typer.Option(help="Share of a GPU that a stage asks Ray for.")] = None,
) -> int:
    """Run a study: what is finished is kept, and the same command goes on after any interruption."""
    if retry + force + only_cached > 1:
        raise typer.BadParameter("--retry, --force and --only-cached exclude each other.")
    mode = "retry" if retry else "force" if force else "only-cached" if only_cached else "resume"
    return _run(
        face, study, report, overwrite, dry_run, budget=budget, seeds=seeds,
        changes=assignments(change), only=only, results=results, expect=expect, mode=mode,
        stage_timeout=stage_timeout, ray=ray, cpus=cpus, gpus=gpus,
    )  # fmt: skip


def _run(
    face: Face, study: str | Path, report: Path | None, overwrite: bool, dry_run: bool = False, **asked: Any
) -> int:
    if report:
        replaceable(report, overwrite)
    planned = dt.plan(study, store=face.store, jobs=face.jobs, device=face.device, first_seed=face.seed, **asked)
    facts, cost = planned.record(), str(planned)
    if not dry_run:
        planned.check_code()
    planned.check()
    if dry_run:
        kinds, cells = planned.by_kind(), {} if planned.grid.large else planned.to_do()
        facts |= {"by_kind": kinds, "cell_ids": [*cells]}
        return face.show(facts, cost, *_kinds(kinds), *_ids(cells), *planned.breaches)
    for line in (cost, *planned.breaches):
        face.say(line)
    with face.progress(planned) as tell:
        found = planned.run(tell)
    facts |= {name: getattr(found.outcome, name) for name in ("ran", "cached", "failed", "skipped")}
    facts |= {"results": None if found.folder is None else str(found.folder)}
    if report:
        dt.report(found, report, made_by=_typed(), overwrite=overwrite)
        facts |= {"report": str(report)}
    failures = found.failures
    facts |= {"differences": found.differences, "failures": failures, "states": dict(found.states)}
    facts |= {"answer": None if found.large else found.answer}  # of so many cells, whoever wants it asks `results`
    face.show(
        facts, *found.text(face.width).split("\n"), *found.differences, *failures, f"Report: {report}" if report else ""
    )
    return 1 if found.differences else 2 if failures else 0 if found.states.get("done") else 3


def _kinds(rows: list[dict[str, Any]]) -> list[str]:
    """Stages kind by kind, a line each."""
    from ..reporting.text import duration

    lines = [f"{'stage':<12} {'all':>6} {'to run':>7}  about"]
    for row in rows:
        seconds = row["estimated_seconds"]
        told = "not timed here" if seconds is None else duration(seconds) if row["to_run"] else "–"
        lines.append(f"{row['kind']:<12} {row['stages']:>6,} {row['to_run']:>7,}  {told}")
    return lines


def _ids(cells: dict[str, int]) -> list[str]:
    """Cells by id, each with the stages that it waits for; of a very large study none."""
    lines = [f"  {n:>3}  {name}" for name, n in cells.items()]
    return ["cells, and how many stages each waits for:", *lines] if lines else []


def _typed() -> str:
    """The command line, for whoever reads the report."""
    return shlex.join(["distrust", *sys.argv[1:]])


@command
def results(
    face: Face,
    folder: Annotated[Path, typer.Argument(help="A results folder, or a study's name.")],
    where: Annotated[str, typer.Option(help='Only the cells for which this holds, e.g. "asr > 0.5" (SQL).')] = "",
    to: Annotated[
        str,
        typer.Option(
            help="Write finished cells as runs: tensorboard:FOLDER or mlflow:URI, e.g. mlflow:http://HOST:5000."
        ),
    ] = "",
    cells: Annotated[bool, typer.Option("--cells", help="With --json: every cell, too.")] = False,
) -> int:
    """Show the cells of a study, over seeds, with intervals and flags."""
    from ..study.cells import in_bulk

    with in_bulk():
        found = dt.results(folder, store=face.store, where=where)
        if to:
            written = found.export(to)
            return face.show({"exported": written, "to": to}, f"{to}: {written} new runs of {len(found.cells)} cells")
        facts = {"answer": found.answer, "rows": [row.record() for row in found.rows]} if face.json_ else {}
        facts |= {"cells": found.cells} if cells else {}
        return face.show(facts, *found.text(face.width).split("\n"))


@command
def results_import(
    face: Face,
    file: Annotated[Path, typer.Argument(help="BackdoorBench's results.csv.")],
    attack: Annotated[
        list[str] | None, typer.Option(help="Only this attack, by our name or theirs; repeatable.")
    ] = None,
    defense: Annotated[list[str] | None, typer.Option(help="Only this defence, likewise.")] = None,
    images: Annotated[list[str] | None, typer.Option(help="Only these images, e.g. cifar10; repeatable.")] = None,
    rate: Annotated[list[float] | None, typer.Option(help="Only this poison rate, e.g. 0.1; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this network, e.g. preactresnet18; repeatable.")] = None,
) -> int:
    """Turn the public board's results into published rows, for a study file: numbers of others, beside ours."""
    found = dt.published(
        file, attack=attack or (), defense=defense or (), images=images or (), rate=rate or (), model=model or ()
    )
    return face.show({"published": found.rows}, *str(found).split("\n"))


@command
def report(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A study file, a results folder, or a study's name.")],
    out: ReportFile = Path("report.html"),
    budget: Budget = None,
    seeds: Seeds = None,
    overwrite: Overwrite = False,
) -> int:
    """Write one HTML file that shows a study, from what the store or the results folder has."""
    shown = dt.report(
        study, out, store=face.store, budget=budget, seeds=seeds, first_seed=face.seed, made_by=_typed(),
        overwrite=overwrite,
    )  # fmt: skip
    n = len(shown.cells)
    return face.show({"report": str(out), "cells": n}, f"{out}: {n} cells")


@command
def status(
    face: Face,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its checksum.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show what runs, as it changes, until Ctrl-C.")] = False,
) -> int:
    """Show what the store holds: stages by kind and state, their cost, what failed, and what cannot be used.

    Exit code 1: a stage cannot be used. A run of its study sets it aside and makes it anew.
    """
    from ..reporting.text import duration
    from ..study import Store
    from ..study.cells import in_bulk

    if watch:
        from .watching import show_runs

        return show_runs(face)
    with in_bulk():
        facts = Store(face.store).status(verify)
    lines = [f"{facts['store']}: {facts['stages']} stages, {duration(facts['seconds'])} of work"]
    lines += [f"  {what}: {n}" for what, n in facts["by_kind"].items()]
    lines += [f"  {key[:12]} {error}" for key, error in facts["failed"].items()]
    lines += [f"  {key[:12]} cannot be used: {why}" for key, why in facts["damaged"].items()]
    lines += [f"  set aside: {name}" for name in facts["set_aside"]]
    face.show(facts, *lines)
    return 1 if facts["damaged"] else 0


@command
def why(face: Face, key: Annotated[str, typer.Argument(help="A stage's key, or its beginning.")]) -> int:
    """Show how a stage came to be: its recipe, its parents, its flags and its seconds."""
    from ..study import Store

    store = Store(face.store)
    key, record = store.find(key)
    lines = [f"{key}  {record['label']}  {record['state']}  {record['seconds']} s"]
    ancestors = list(record["parents"])
    gone: dict[str, Any] = {"label": "gone", "parents": [], "seconds": 0}
    for ancestor in ancestors:  # grows on the way
        try:
            of = store.record(ancestor) or gone
        except DistrustError as error:
            of = {**gone, "label": str(error)}
        lines.append(f"  ← {ancestor[:12]}  {of['label']}  {of['seconds']} s")
        ancestors += [key for key in of["parents"] if key not in ancestors]
    recipe = json.dumps(record["recipe"], indent=1).split("\n")
    return face.show({"key": key, **record}, *lines, *recipe, record.get("error", ""))
