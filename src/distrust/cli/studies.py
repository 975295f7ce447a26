"""Commands on studies: run them, show what came out, and what the store holds."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from .command import Budget, Changes, Plugins, ReportFile, Seeds, command
from .face import Face


@command
def demo(face: Face, report: ReportFile = Path("report.html")) -> int:
    """Run the main job on scikit-learn's bundled digits, in a minute, and write report.html."""
    return _run(face, Path(__file__).parents[1] / "study" / "demo.toml", report=report, reproduce="distrust demo")


@command
def run(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A study file, e.g. studies/nad-mini.toml.")],
    budget: Budget = None,
    seeds: Seeds = None,
    change: Changes = [],  # noqa: B006 - typer copies it
    only: Annotated[str, typer.Option(help="Only the cells whose id begins so.")] = "",
    results: Annotated[Path | None, typer.Option(help="Folder for the cells (default: in the store).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report here too.")] = None,
    expect: Annotated[Path | None, typer.Option(help="Compare with these results; 1 if they differ.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan and cost, then stop.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed or was skipped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run everything again.")] = False,
    only_cached: Annotated[bool, typer.Option("--only-cached", help="Run nothing; show what is there.")] = False,
    plugin: Plugins = [],  # noqa: B006 - typer copies it
) -> int:
    """Run a study: what is finished is kept, and the same command goes on after any interruption."""
    if retry + force + only_cached > 1:
        raise typer.BadParameter("--retry, --force and --only-cached exclude each other.")
    mode = "retry" if retry else "force" if force else "only-cached" if only_cached else "resume"
    return _run(
        face, study, budget=budget, seeds=seeds, changes=change, only=only, results=results, report=report,
        expect=expect, dry_run=dry_run, mode=mode, plugins=plugin,
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


def _run(
    face: Face,
    path: Path,
    *,
    budget: str | None = None,
    seeds: int | None = None,
    changes: list[str] = [],  # noqa: B006
    only: str = "",
    results: Path | None = None,
    report: Path | None = None,
    expect: Path | None = None,
    dry_run: bool = False,
    mode: str = "resume",
    plugins: list[Path] = [],  # noqa: B006
    reproduce: str = "",
) -> int:
    from ..registry import registry
    from ..study import Store, make_plan, read_cells, read_study, score_cells, write_cells
    from ..study import run as run_plan
    from ..study.cells import compare
    from ..study.estimate import estimate
    from ..study.run import automatic_jobs, kept

    for file in plugins:
        registry.add(file)
    asked = {**dict(map(_assignment, changes)), **{k: v for k, v in (("budget", budget), ("seeds", seeds)) if v}}
    study = read_study(path, **asked)
    jobs = face.jobs or automatic_jobs(face.machine())
    expected = [c for c in read_cells(expect) if c["id"].startswith(only)] if expect else []
    plan = make_plan(study, only, first_seed=face.seed)
    store = Store(face.store)
    waiting = [s for k, s in plan.stages.items() if kept(store, k, mode) is None]  # type: ignore[arg-type]
    seconds = estimate(waiting, jobs) if waiting and mode != "only-cached" else 0.0
    facts: dict[str, Any] = {"study": study.name, "budget": study.budget, "cells": len(plan.cells)}
    facts |= {"stages": len(plan.stages), "to_run": len(waiting), "estimated_seconds": round(seconds)}
    cost = (
        f"{study.name} ({study.budget}): {len(plan.cells)} cells, {len(plan.stages)} stages, "
        f"{len(waiting)} to run, about {face.duration(seconds)}"
    )
    if dry_run:
        return face.show(facts, cost)
    face.say(cost)
    with face.progress(waiting) as tell:
        outcome = run_plan(plan, store, jobs=jobs, mode=mode, device=face.device, tell=tell)  # type: ignore[arg-type]
    cells = score_cells(plan, store, outcome)
    for cell in cells:
        extra = [word for file in plugins for word in ("--plugin", str(file))]
        extra += [word for change in changes for word in ("--set", change)]
        extra += ["--seed", str(cell["seed"]), "--seeds", "1"] if face.seed or seeds else []
        cell["reproduce"] = reproduce or shlex.join([*shlex.split(cell["reproduce"]), *extra])
    folder = results or Path(face.results(study.name))
    write_cells(cells, folder, whole=not only)
    facts |= {"ran": outcome.ran, "cached": outcome.cached, "failed": outcome.failed, "skipped": outcome.skipped}
    facts |= {"results": str(folder)}
    if report:
        _write_report(cells, plan, store, report)
        facts["report"] = str(report)
    differences = compare(cells, expected)
    facts["differences"] = differences
    from ..reporting.answer import answer

    facts["answer"] = answer(cells)
    done = [c for c in cells if c["state"] == "done"]
    lines = [face.table(cells), facts["answer"], *differences, f"Report: {report}" if report else ""]
    face.show(facts, *lines)
    if differences:
        return 1
    if any(c["state"] == "failed" for c in cells):
        return 2
    return 0 if done else 3


@command
def results(face: Face, folder: Annotated[Path, typer.Argument(help="A results folder, or a study's name.")]) -> int:
    """Show the cells of a study, over seeds, with intervals and flags."""
    from ..reporting.answer import answer
    from ..study import read_cells

    cells = read_cells(face.find_results(folder))
    said = answer(cells)
    return face.show({"cells": cells, "answer": said}, face.table(cells), said)


@command
def report(
    face: Face,
    study: Annotated[Path, typer.Argument(help="A study file, a results folder, or a study's name.")],
    out: ReportFile = Path("report.html"),
    budget: Budget = None,
    seeds: Seeds = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Write one HTML file that shows a study, from what the store or the results folder has."""
    from ..errors import DistrustError
    from ..registry import registry
    from ..study import Store, make_plan, read_cells, read_study, run, score_cells

    for file in plugin:
        registry.add(file)
    store, plan = Store(face.store), None
    if study.suffix == ".toml":
        plan = make_plan(read_study(study, budget=budget, seeds=seeds), first_seed=face.seed)
        cells = score_cells(plan, store, run(plan, store, mode="only-cached"))
    else:
        cells = read_cells(face.find_results(study))
        reproduce = shlex.split(cells[0]["reproduce"])
        source = Path(reproduce[2]) if reproduce[1] == "run" else None
        if source and source.is_file():
            with contextlib.suppress(DistrustError):  # the numbers are here; only pictures need the plan
                plan = make_plan(read_study(source, budget=cells[0]["budget"]))
    _write_report(cells, plan, store, out)
    return face.show({"report": str(out), "cells": len(cells)}, f"{out}: {len(cells)} cells")


def _write_report(cells: list[dict[str, Any]], plan: Any, store: Any, path: Path) -> None:
    from ..files import write_file
    from ..reporting import page
    from ..reporting.gather import report_of

    made_by = shlex.join(["distrust", *sys.argv[1:]])
    write_file(path, page(report_of(cells, plan, store, made_by)).encode())


@command
def status(face: Face) -> int:
    """Show what the store holds: stages by kind and state, their cost, and what failed."""
    from ..study import Store
    from ..study.estimate import status_of

    facts = status_of(Store(face.store))
    lines = [f"{facts['store']}: {facts['stages']} stages, {face.duration(facts['seconds'])} of work"]
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
