"""Run: walk the graph of stages with an executor; resume, retry, force, or only look."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Literal

from ..allowed import allowed
from ..errors import DistrustError, notice
from ..training import watching
from . import cluster as on_ray
from .executors import Processes, executor
from .graph import Plan, Stage, digest
from .order import Queue, inherited
from .records import Damaged, Record
from .store import Store
from .work import Found, described, given_up, work

Mode = Literal["resume", "retry", "force", "only-cached"]
Tell = Callable[[str, Stage, Record], None]
PATIENCE = 0.5  # seconds that a process waits for a stage that another run is at, when it came to that before


@dataclass
class Outcome:
    """How a run went: the record of every stage that has one, and how many stages were done now."""

    records: dict[str, Record] = field(default_factory=dict)
    ran: int = 0
    cached: int = 0
    failed: int = 0
    skipped: int = 0
    missing: int = 0

    def take(self, stage: Stage, record: Record, tell: Tell) -> None:
        """What has become of a stage that was waiting."""
        self.records[stage.key] = record
        self.failed += record["state"] == "failed"
        self.skipped += record["state"] == "skipped"
        tell("cached" if isinstance(record, Found) else record["state"], stage, record)


def run(
    plan: Plan,
    store: Store,
    *,
    jobs: int = 1,
    mode: Mode = "resume",
    device: str | None = None,
    limit: float | None = None,
    cluster: on_ray.Cluster | None = None,
    made: Container[str] = (),
    tell: Tell = lambda event, stage, record: None,
) -> Outcome:
    """Carry out what the store does not have yet; call it again after any interruption.

    Args:
        plan: the stages.
        store: where results go.
        jobs: stages at a time; 1 runs in this process.
        mode: "resume" runs what is missing; "retry" also what failed or was skipped; "force" everything;
            "only-cached" nothing.
        device: torch device of the work (default: CPU).
        limit: seconds after which a stage that is not done is ended, and has failed; it runs in a process of its own
            then (default: none).
        cluster: where Ray carries them out, in place of processes here (default: none).
        made: keys of what was just made, which stands in every mode.
        tell: called with "start", "step", "done", "failed", "skipped" or "cached", the stage, and its record
            (of "step": `step`, `steps`, `loss`; in-process only).

    Raises:
        StoreError: the store cannot be written; what was finished stays.
        BadInput: the cluster cannot be reached, or cannot do what a stage needs.
        DistrustError: a worker process was killed; what was finished stays.
    """
    outcome = Outcome()
    waiting: dict[str, Stage] = {}
    for stage, record in kept(plan, store, mode, made):
        if record is None or isinstance(record, Damaged):
            waiting[stage.key] = stage
        else:
            outcome.records[stage.key] = record
            outcome.cached += 1
            tell("cached", stage, record)
        if isinstance(record, Damaged):
            notice(f"{record} It is left out.") if mode == "only-cached" else store.set_aside(record)
    if mode == "only-cached":
        outcome.missing = len(waiting)
        return outcome
    if waiting:
        store.check_writable()
        try:
            if cluster:
                on_ray.drain(plan, waiting, outcome, cluster, jobs, store, device, mode, limit, tell)
            else:
                with executor(jobs, device, timed=limit is not None) as pool:
                    _drain(plan, waiting, outcome, pool, jobs, store, device, mode, limit, tell)
        finally:
            store.sweep()  # what processes left that were killed
    return outcome


def kept(
    plan: Plan, store: Store, mode: Mode, made: Container[str] = ()
) -> Iterator[tuple[Stage, Record | Damaged | None]]:
    """What the store has of each stage and this mode leaves standing; None, or what is wrong, where it has to run.

    What no other stage of the plan reads is read here; the others' readers say what is wrong with them.
    """
    read = {parent.key for stage in plan.stages.values() for parent in stage.parents}
    asked = {key for key in plan.stages if key not in read and (key in made or mode != "force")}
    for key, record in store.records(plan.stages, asked):
        stage = plan.stages[key]
        try:
            if isinstance(record, Damaged):
                raise record
            if record and "key" not in record and _comes_from(record) != _comes_from(described(stage)):
                raise Damaged(key, "its record is that of another stage")  # of an earlier version, without its key
            done = record is not None and record["state"] == "done"
            if (mode == "force" or (mode == "retry" and not done)) and key not in made:
                record = None
            yield stage, record
        except Damaged as error:
            yield stage, error


def _comes_from(record: Record) -> str:
    return digest([record["recipe"], record["parents"]])


def _drain(
    plan: Plan,
    waiting: dict[str, Stage],
    outcome: Outcome,
    pool: Executor,
    jobs: int,
    store: Store,
    device: str | None,
    mode: Mode,
    limit: float | None,
    tell: Tell,
) -> None:
    queue, lacking, until = Queue(waiting), Counter[tuple[str, str]](), dict[Future[list[Record | None]], float]()
    running: dict[Future[list[Record | None]], list[Stage]] = {}
    while queue or running:
        while queue and len(running) < jobs:
            stages = queue.take(jobs - len(running))
            fate, waited = inherited(stages[0], outcome.records), queue.put_off.issuperset(s.key for s in stages)
            patience = PATIENCE if waited else 0.0
            for stage in stages:
                if fate:
                    outcome.take(stage, fate, tell)
                    queue.release(stage)
                elif stage.key not in queue.put_off:
                    tell("start", stage, {})
            if not fate:
                with watching(_step_teller(stages[0], tell)):
                    redo = "" if waited else mode  # what another run was at is made by then
                    words = (device, redo == "force", allowed(), redo == "retry", patience)
                    future = pool.submit(work, stages, store.url, *words)
                running[future], until[future] = stages, time.monotonic() + patience + (limit or 0) * len(stages)
        left = max(min(map(until.__getitem__, running)) - time.monotonic(), 0) if limit and running else None
        done, late = wait(running, left, FIRST_COMPLETED) if running else ((), ())
        if late and not done and isinstance(pool, Processes):
            pool.end()
            pool.begin()
            for future in late:  # the others are begun again
                stages = running.pop(future)
                if time.monotonic() < until[future]:
                    queue.redo(stages, None)
                    continue
                outcome.ran += len(stages)
                for stage in stages:
                    outcome.take(stage, given_up(stage, store, limit or 0, mode == "force"), tell)
                    queue.release(stage)
        for future in done:
            stages = running.pop(future)
            try:
                records = future.result()
            except Damaged as error:  # what it reads has to be made again, and then it too
                lost, lacks = plan.stages.get(error.key), (stages[0].key, error.key)
                lacking[lacks] += 1
                if lost is None or lacking[lacks] > 2:
                    raise
                store.set_aside(error)
                if store.record(lost.key):  # another made it meanwhile
                    lost = None
                elif lost.key not in queue.place:
                    outcome.cached -= 1
                queue.redo(stages, lost)
                continue
            except BrokenExecutor:
                raise DistrustError(
                    "a worker process was killed, perhaps for want of memory. What was finished is still there; "
                    "run the same command again, with fewer jobs."
                ) from None
            for stage, record in zip(stages, records, strict=True):
                if record is None:  # another run is at it
                    queue.put_back(stage)
                    continue
                outcome.ran += not isinstance(record, Found)
                outcome.cached += isinstance(record, Found)
                outcome.take(stage, record, tell)
                queue.release(stage)


def _step_teller(stage: Stage, tell: Tell) -> Callable[[int, int, float], None]:
    return lambda step, steps, loss: tell("step", stage, {"step": step, "steps": steps, "loss": loss})
