"""Run: walk the graph of stages with an executor; resume, retry, force, or only look."""

from __future__ import annotations

import heapq
import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from ..allowed import allowed
from ..errors import BadInput, DistrustError, notice
from ..registry import registry
from ..training import watching
from ..workers import begin
from .graph import Plan, Stage, digest
from .records import Damaged, Record
from .store import Store
from .work import Found, described, given_up, together, work

Mode = Literal["resume", "retry", "force", "only-cached"]
Tell = Callable[[str, Stage, Record], None]
START = 120.0  # seconds until a process is there, at most
PATIENCE = 0.5  # seconds that a process waits for a stage that another run is at, when it came to that before
TOGETHER = 8  # stages that are carried out in turns at most: each holds its model and its momentum


@dataclass
class Outcome:
    """How a run went: the record of every stage that has one, and how many stages were done now."""

    records: dict[str, Record] = field(default_factory=dict)
    ran: int = 0
    cached: int = 0
    failed: int = 0
    skipped: int = 0
    missing: int = 0


class InProcess(Executor):
    """Runs each stage where it is submitted. Any other concurrent.futures executor fits in its place."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call at once; an error is kept in the future."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Processes(Executor):
    """Spawned processes that share the processor's cores evenly."""

    def __init__(self, jobs: int, timed: bool = False) -> None:
        self.jobs, self.timed, self.others = jobs, timed, set(multiprocessing.active_children())
        self.begin()

    def begin(self) -> None:
        """Make them; if what they do is timed, wait until they are there, which takes seconds."""
        context, share = multiprocessing.get_context("spawn"), max(cores() // self.jobs, 1)
        ready = context.Semaphore(0)
        self.pool = ProcessPoolExecutor(self.jobs, context, begin, (share, registry.files, ready))
        if self.timed:
            for _ in range(self.jobs):
                self.pool.submit(int)  # each of which asks for one
            for _ in range(self.jobs):
                ready.acquire(timeout=START)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call in one of them."""
        return self.pool.submit(call, *args, **kwargs)

    def end(self) -> None:
        """Stop them at once, whatever they do; the store keeps what was finished."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        begun = set(multiprocessing.active_children()) - self.others
        for process in begun:
            process.kill()
        for process in begun:
            process.join(1)  # so that what they held is free


@contextmanager
def executor(jobs: int, timed: bool = False) -> Iterator[Executor]:
    """In-process for one job, unless it is timed; else spawned processes. What is interrupted is stopped at once.

    Raises:
        BadInput: no jobs.
    """
    if jobs < 1:
        raise BadInput(f"jobs={jobs}: give 1 or more.")
    if jobs == 1 and not timed:
        yield InProcess()
        return
    processes = Processes(jobs, timed)
    try:
        yield processes
    except BaseException:
        processes.end()
        raise
    processes.pool.shutdown()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def automatic_jobs(device: str) -> int:
    """One process a core, at most four (each holds the images); a GPU is not shared."""
    return min(cores(), 4) if device == "cpu" else 1


def run(
    plan: Plan,
    store: Store,
    *,
    jobs: int = 1,
    mode: Mode = "resume",
    device: str | None = None,
    limit: float | None = None,
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
        made: keys of what was just made, which stands in every mode.
        tell: called with "start", "step", "done", "failed", "skipped" or "cached", the stage, and its record
            (of "step": `step`, `steps`, `loss`; in-process only).

    Raises:
        StoreError: the store cannot be written; what was finished stays.
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
            with executor(jobs, timed=limit is not None) as pool:
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
    for key, record in store.records(plan.stages):
        stage = plan.stages[key]
        try:
            if isinstance(record, Damaged):
                raise record
            if record and "key" not in record and _comes_from(record) != _comes_from(described(stage)):
                raise Damaged(key, "its record is that of another stage")  # of an earlier version, without its key
            done = record is not None and record["state"] == "done"
            if (mode == "force" or (mode == "retry" and not done)) and key not in made:
                record = None
            elif done and key not in read:
                record = store.load(key)[0]
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
    queue, lacking, until = _Queue(waiting), Counter[tuple[str, str]](), dict[Future[list[Record | None]], float]()
    running: dict[Future[list[Record | None]], list[Stage]] = {}
    while queue or running:
        while queue and len(running) < jobs:
            stages = queue.take(jobs - len(running))
            broken, waited = _broken(stages[0], outcome.records), queue.put_off.issuperset(s.key for s in stages)
            patience = PATIENCE if waited else 0.0
            for stage in stages:
                if broken:
                    _finish(stage, _inherited(broken[0], outcome.records[broken[0].key]), outcome, tell)
                    queue.release(stage)
                elif stage.key not in queue.put_off:
                    tell("start", stage, {})
            if not broken:
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
                    _finish(stage, given_up(stage, store, limit or 0, mode == "force"), outcome, tell)
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
                _finish(stage, record, outcome, tell)
                queue.release(stage)


class _Queue:
    """Stages whose parents are all there, in the plan's order; each is looked at once for every parent."""

    def __init__(self, waiting: Mapping[str, Stage]) -> None:
        self.place = {key: place for place, key in enumerate(waiting)}
        self.children: dict[str, list[Stage]] = {}
        self.missing: dict[str, int] = {}
        self.ready: list[tuple[int, Stage]] = []
        self.alike: dict[str | None, dict[str, Stage]] = {}
        self.open = set(waiting)  # what is not done with
        self.put_off = set[str]()  # what another run was at
        self.last = len(waiting)
        for stage in waiting.values():
            self._enter(stage)

    def __bool__(self) -> bool:
        return bool(self.ready)

    def take(self, free: int) -> list[Stage]:
        """The next stage, and those that are carried out together with it: their share, of so many free processes."""
        _, stage = heapq.heappop(self.ready)
        alike = self.alike.get(together(stage), {})
        count = min(math.ceil(len(alike) / free), TOGETHER)
        found = [stage, *(one for one in alike.values() if one is not stage)][: max(count, 1)]
        for one in found:
            alike.pop(one.key, None)
        taken = {one.key for one in found[1:]}
        if taken:
            self.ready = [row for row in self.ready if row[1].key not in taken]
            heapq.heapify(self.ready)
        return found

    def release(self, stage: Stage) -> None:
        """It is done with: its children have a parent less to wait for."""
        self.open.discard(stage.key)
        for child in self.children[stage.key]:
            self.missing[child.key] -= 1
            if not self.missing[child.key]:
                self._add(child)

    def redo(self, stages: Sequence[Stage], lost: Stage | None) -> None:
        """Put back stages that were taken; what they lack goes before them."""
        if lost and lost.key not in self.open:
            self.open.add(lost.key)
            self.place.setdefault(lost.key, -1 - len(self.place))
            self._enter(lost)
        for stage in stages:
            if lost:
                self.missing[stage.key] += 1
                self.children[lost.key].append(stage)
            else:
                self._add(stage)

    def put_back(self, stage: Stage) -> None:
        """Another run is at it: everything else comes first."""
        self.put_off.add(stage.key)
        self.place[stage.key] = self.last = self.last + 1
        self._add(stage)

    def _enter(self, stage: Stage) -> None:
        """Parents come before their children."""
        parents = [parent.key for parent in stage.parents if parent.key in self.open]
        self.children[stage.key], self.missing[stage.key] = [], len(parents)
        for key in parents:
            self.children[key].append(stage)
        if not parents:
            self._add(stage)

    def _add(self, stage: Stage) -> None:
        heapq.heappush(self.ready, (self.place[stage.key], stage))
        if (group := together(stage)) is not None:
            self.alike.setdefault(group, {})[stage.key] = stage


def _broken(stage: Stage, records: dict[str, Record]) -> list[Stage]:
    """Parents without which a stage cannot be done; of a choice's candidates, one that works is enough."""
    broken = [p for p in stage.parents if records[p.key]["state"] != "done"]
    lost = {p.key for p in broken}
    return broken if lost - stage.spare or lost == stage.spare else []


def _step_teller(stage: Stage, tell: Tell) -> Callable[[int, int, float], None]:
    return lambda step, steps, loss: tell("step", stage, {"step": step, "steps": steps, "loss": loss})


def _finish(stage: Stage, record: Record, outcome: Outcome, tell: Tell) -> None:
    outcome.records[stage.key] = record
    outcome.failed += record["state"] == "failed"
    outcome.skipped += record["state"] == "skipped"
    tell("cached" if isinstance(record, Found) else record["state"], stage, record)


def _inherited(parent: Stage, record: Record) -> Record:
    """A stage whose parent has nothing to give shares its fate; nothing is stored, so a retry reaches it."""
    error = record.get("error", "")
    if not error.startswith("after "):
        error = f"after {parent.label}: {error}"
    return {"state": record["state"], "error": error, "flags": record["flags"], "seconds": 0.0}
