"""The public way to a study: plan it, and run it."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .allowed import Files as Code
from .allowed import allowed, check_allowed, code_from
from .devices import usable
from .errors import NotFound, notice
from .registry import registry
from .reporting.results import Large, Results, Stored, failures_of, folder_of
from .reporting.text import duration
from .study.blocks import Tally
from .study.cells import COMPARED, Cell, Writer, compare, named, read_cells
from .study.cluster import Cluster, cluster_of, connected
from .study.estimate import Estimate, Speed, share_of
from .study.executors import automatic_jobs, cores
from .study.graph import Plan, Stage
from .study.live import told
from .study.plan import Grid, look
from .study.protocol import breaches
from .study.records import Damaged, Record
from .study.runner import Mode, Outcome, Tell, kept
from .study.runner import run as run_plan
from .study.sample import Sample, sample
from .study.scoring import score_cells
from .study.spec import Study, read_study
from .study.store import Store

DEMO = Path(__file__).parent / "study" / "demo.toml"


@dataclass(frozen=True)
class Planned:
    """A study that is ready to run; printed, what it will cost.

    Args:
        grid: its cells, planned in blocks.
        sample: its plan or, if it has more than some thousand cells, that of cells that stand for them.
        store: where stages are kept.
        waiting: the stages of `plan` that have to run.
        folder: where the cells will go; None if they are only compared.
        mode, jobs, device: how it will run.
        expected: cells to compare with.
        whole: it has every cell of the study.
        own: the folder is the store's, where cells made by other stages give way.
        again: words that a command needs besides file, budget and id to make a cell again; {seed} is the cell's.
        code: files that may be run, if the study names them.
        stage_timeout: seconds after which a stage that is not done is ended.
        cluster: where Ray carries out the stages, if it does.
    """

    grid: Grid
    sample: Sample
    store: Store
    waiting: list[Stage]
    folder: Path | None
    mode: Mode
    jobs: int
    device: str
    expected: list[Cell]
    whole: bool
    own: bool
    again: list[str]
    code: tuple[Path, ...] = ()
    stage_timeout: float | None = None
    cluster: Cluster | None = None

    @property
    def plan(self) -> Plan:
        """Its cells and stages; of a study of more than some thousand cells, those that stand for them."""
        return self.sample.plan

    @functools.cached_property
    def estimate(self) -> Estimate:
        """What the waiting stages will cost on this machine, from how fast their networks were here before."""
        waiting = self.waiting if self.mode != "only-cached" else ()
        return Speed(self.device, self.jobs).estimate(waiting, self.sample.weights)

    def record(self) -> dict[str, Any]:
        """As plain values for JSON; seconds are None while they are not known."""
        cost = self.estimate
        return {
            "study": self.grid.study.name, "budget": self.grid.study.budget, "cells": self.grid.cells,
            "stages": self.sample.count(self.plan.stages.values()), "to_run": self.sample.count(self.waiting),
            "training_images": round(cost.images),
            "estimated_seconds": None if cost.unknown else round(cost.seconds), "not_timed": list(cost.unknown),
            "code": list(self.grid.checked.code), "estimated_from": len(self.plan.cells), "breaches": self.breaches,
        }  # fmt: skip

    def by_kind(self) -> list[dict[str, Any]]:
        """The stages of each kind: how many, how many have to run, and how many seconds they take, None if unknown."""
        speed, found = Speed(self.device, self.jobs), dict[str, list[Stage]]()
        for stage in self.plan.stages.values():
            found.setdefault(stage.kind, []).append(stage)
        waiting = {stage.key for stage in self.waiting}
        rows = []
        for kind, stages in found.items():
            left = [stage for stage in stages if stage.key in waiting]
            cost = speed.estimate(left, self.sample.weights)
            rows.append({
                "kind": kind, "stages": self.sample.count(stages), "to_run": self.sample.count(left),
                "estimated_seconds": None if cost.unknown else round(cost.seconds),
            })  # fmt: skip
        return rows

    def to_do(self) -> dict[str, int]:
        """Cell by id → how many of the stages that it needs have to run."""
        waiting = {stage.key for stage in self.waiting}
        return {cell.id: sum(stage.key in waiting for stage in cell.needed) for cell in self.plan.cells}

    @functools.cached_property
    def breaches(self) -> list[str]:
        """Where a table of defences is not fair, a line each; see `protocol` of `Study`."""
        off = breaches(self.plan.study, self.plan.cells)
        told = (f"off-protocol: {c.axes['defense']}: {how}" for c in self.plan.cells for how in off.get(c.id, ()))
        return list(dict.fromkeys(told))

    def __str__(self) -> str:
        cost = self.estimate
        said = "{study} ({budget}): {cells} cells, {stages} stages, {to_run} to run, "
        if self.grid.large:
            said = "{study} ({budget}): {cells:,} cells, about {stages:,} stages, {to_run:,} to run, "
        names = f"; a run executes code: {', '.join(self.grid.checked.code)}" if self.grid.checked.code else ""
        some = f"; estimated from {len(self.plan.cells):,} of the cells" if self.grid.large else ""
        return said.format(**self.record()) + self._cost(cost) + some + names

    def _cost(self, cost: Estimate) -> str:
        if not cost.unknown:
            alone = " if this machine did it alone" if self.cluster and not self.cluster.local else ""
            return f"about {duration(cost.seconds)}{alone}"
        least = f"more than {duration(cost.seconds)}" if cost.seconds else "in a time that is not known yet"
        images, names = f"{cost.images:,.0f} images to train on", ", ".join(cost.unknown)
        return f"{least}: {images}; never timed on this machine: {names}"

    def check(self) -> None:
        """Hold triggers and targets against the images that are at hand, if anything has to run.

        Raises:
            BadInput: a trigger that does not fit, a target that is no class, or images that cannot be read.
        """
        if self.waiting and self.mode != "only-cached":
            look(self.grid.checked)

    def check_code(self) -> None:
        """Make sure that the code that the study names may be run, if anything is.

        Raises:
            UnsafeFile: names the code, and what to type.
        """
        if self.mode != "only-cached":
            with code_from(self.code):
                check_allowed(self.grid.checked.code, self.grid.study.source or self.grid.study.name)

    def run(self, tell: Tell = lambda event, stage, record: None) -> Results:
        """Run what is waiting, score the cells and write them; `tell` as in `distrust.run`.

        Raises:
            UnsafeFile: the study names code that is not allowed.
        """
        self.check_code()
        with code_from(self.code):
            return self._run(tell)

    def _run(self, tell: Tell) -> Results:
        self.check()
        if self.mode == "only-cached" or not self.waiting:
            return self._carried_out(tell)
        facts = {name: self.record()[name] for name in ("study", "budget", "cells", "to_run")}
        total = sum(share_of(stage) * self.sample.weights.get(stage.key, 1) for stage in self.waiting)
        with told(self.store, facts, share_of, total) as hear:

            def both(event: str, stage: Stage, record: Record) -> None:
                hear(event, stage, record)
                tell(event, stage, record)

            return self._carried_out(both)

    def _carried_out(self, tell: Tell) -> Results:
        speed, tally, found = Speed(self.device, self.jobs), Tally(), set[str]()
        writer = None if self.folder is None else Writer(self.folder, self.own)
        compared, failures = list[Cell](), dict[str, None]()

        def heard(event: str, stage: Stage, record: Record) -> None:
            if event == "done" and (not self.cluster or self.cluster.local):
                speed.hear(stage, record)
            if event == "cached":
                found.add(stage.key)
            tell(event, stage, record)

        try:
            with self._open():
                for plan in self.grid.blocks():
                    outcome = run_plan(
                        plan, self.store, jobs=self.jobs, mode=self.mode, device=self.device, limit=self.stage_timeout,
                        cluster=self.cluster, made=tally.made, tell=heard,
                    )  # fmt: skip
                    cells = self._scored(plan, outcome)
                    if writer:
                        writer.write(cells)
                    compared += [{name: cell.get(name) for name in COMPARED} for cell in cells] if self.expected else []
                    failures |= dict.fromkeys(failures_of(plan, outcome))
                    tally.add(plan, outcome, found, cells)
                    found.clear()
        finally:
            speed.keep()
        folder = writer.close(self.whole) if writer and writer.place else None
        if not self.grid.large:
            return Results(cells, folder, self.store, plan, outcome, tuple(compare(cells, self.expected)))
        large = Large(tally.states, list(failures))
        differences = tuple(compare(compared, self.expected))
        there = Stored(folder) if folder else compared
        return Results(there, folder, self.store, None, tally.outcome, differences, large)

    def _open(self) -> AbstractContextManager[Any]:
        """Ray, if it has anything to do, for all blocks."""
        wanted = self.cluster and self.waiting and self.mode != "only-cached"
        return connected(self.cluster, self.jobs) if self.cluster and wanted else contextlib.nullcontext()

    def look(self) -> Results:
        """Score the cells from what the store has; nothing is run and nothing written."""
        cells = list[Cell]()
        with code_from(self.code):
            for plan in self.grid.blocks():
                outcome = run_plan(plan, self.store, mode="only-cached")
                cells += self._scored(plan, outcome)
        found = Results(cells, None, self.store, plan, outcome, tuple(compare(cells, self.expected)))
        return replace(found, plan=None, outcome=None) if self.grid.large else found

    def _scored(self, plan: Plan, outcome: Outcome) -> list[Cell]:
        cells = score_cells(plan, self.store, outcome)
        demo = plan.study.source == str(DEMO)
        for cell in cells:
            again = [word.format(**cell) if word == "{seed}" else word for word in self.again]
            cell["reproduce"] = "distrust demo" if demo else shlex.join([*shlex.split(cell["reproduce"]), *again])
        return cells


def plan(
    study: str | Path,
    *,
    budget: str | None = None,
    seeds: int | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
    only: str = "",
    store: str = "runs",
    results: str | Path | None = None,
    expect: str | Path | None = None,
    mode: Mode = "resume",
    jobs: int = 0,
    device: str = "cpu",
    first_seed: int = 0,
    allow_code: Code = (),
    stage_timeout: float | None = None,
    ray: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
) -> Planned:
    """Check every name and option of a study, and say what it would run and cost; nothing runs yet.

    Args:
        study: a study file, or "demo".
        budget: which of the study's budgets to use.
        seeds: number of seeds, in place of the study's.
        changes: any entries in place of the study's, e.g. {"images": ["gtsrb"]}.
        only: just the cells whose id begins so.
        store: directory or fsspec URL where finished stages are kept.
        results: folder for the cells (default: in the store, or, if that is remote, in ./results). What is finished
            there stays: see `write_cells`.
        expect: a folder of results to compare with; no cells are written then.
        mode: "resume" runs what is missing; "retry" also what failed or was skipped; "force" everything;
            "only-cached" nothing.
        jobs: stages at a time, 0 decides by itself; 1 runs in this process.
        device: torch device of the work.
        first_seed: seeds are first_seed, first_seed + 1, …
        allow_code: Python files that may be run, if the study names `FILE.py:FACTORY`; a study alone runs no code.
        stage_timeout: seconds after which a stage that is not done is ended and has failed, so that the study goes on.
        ray: where Ray carries out the stages: "local" starts one on this machine for this run, "auto" takes the one
            that runs here or that RAY_ADDRESS names, else HOST:PORT of a cluster's head node (default: no Ray).
        cpus: processor cores that a stage asks Ray for, which are its threads (default: 1).
        gpus: of one GPU, the share in (0, 1] that a stage asks Ray for which runs a network (default: 1).

    Raises:
        NotFound, BadInput: an unknown file, name or option, with what is near; a value that is out of bounds.
        StoreError: the store cannot be opened.
    """
    cluster = cluster_of(ray, cpus, gpus, jobs, device)
    asked = {k: v for k, v in (("budget", budget), ("seeds", seeds)) if v}
    read = read_study(DEMO if str(study) == "demo" else study, **{**changes, **asked})
    expected = _expected(expect, read, only) if expect else []
    grid, kept_in = Grid(read, only, first_seed), Store(store)
    code = dict.fromkeys(name.rpartition(":")[0] for name in grid.checked.code)
    some = sample(grid)
    waiting = [s for s, record in kept(some.plan, kept_in, mode) if record is None or isinstance(record, Damaged)]
    here = Path.cwd()
    files = [str(file.relative_to(here) if file.is_relative_to(here) else file) for file in registry.files]
    again = [word for file in files for word in ("--plugin", file)]
    again += [word for file in code for word in ("--allow-code", file)]
    again += [word for name, value in changes.items() for word in ("--set", f"{name}={_toml(value)}")]
    again += ["--seed", "{seed}", "--seeds", "1"] if first_seed or seeds else []
    if expect and results:
        notice(f"{results} is left as it is: cells that are compared with those expected are not written.")
    own = folder_of(read.name, store) / ("" if read.budget == read.usual_budget else named(read.budget))
    return Planned(
        grid, some, kept_in, waiting, None if expect else Path(results or own), mode,
        jobs or _jobs(cluster, device), device, expected, not only, not results, again, _code(allow_code),
        stage_timeout, cluster,
    )  # fmt: skip


def _jobs(cluster: Cluster | None, device: str) -> int:
    """Stages at a time on this machine; a cluster's nodes say themselves what they can do."""
    return max(cores() // cluster.cpus, 1) if cluster else automatic_jobs(usable(device))


def _code(files: Code) -> tuple[Path, ...]:
    """Those files, and what is allowed here already."""
    with code_from(files):
        return allowed()


def _expected(folder: str | Path, study: Study, only: str) -> list[Cell]:
    """The cells to compare with: those of this budget."""
    cells = read_cells(folder, whole=True)
    known = {cell["budget"] for cell in cells}
    if study.budget not in known:
        raise NotFound.among(f"cell in {folder} of budget", study.budget, known)
    return [cell for cell in cells if cell["budget"] == study.budget and cell["id"].startswith(only)]


def run(study: str | Path, *, tell: Tell = lambda event, stage, record: None, **asked: Any) -> Results:
    """Run a study: what is finished is kept, and the same call goes on after any interruption.

    Args:
        study: a study file, or "demo".
        tell: called with "start", "step", "done", "failed", "skipped" or "cached", the stage, and its record.
        **asked: budget, seeds, changes, only, store, results, expect, mode, jobs, device, first_seed,
            allow_code, stage_timeout, ray, cpus, gpus, as `plan` takes them.

    Raises:
        NotFound, BadInput, StoreError: as `plan`.
        UnsafeFile: the study names code that is not allowed.
        DistrustError: a worker process was killed; what was finished stays.
    """
    return plan(study, **asked).run(tell)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
