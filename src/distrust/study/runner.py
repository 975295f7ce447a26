"""Run: walk the graph of stages with an executor; resume, retry, force, or only look."""

from __future__ import annotations

import ctypes
import heapq
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import BadInput, DistrustError
from ..registry import registry
from ..training import watching
from .graph import Plan, Stage
from .store import Record, Store
from .work import together, work

Mode = Literal["resume", "retry", "force", "only-cached"]
Tell = Callable[[str, Stage, Record], None]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
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


@contextmanager
def executor(jobs: int) -> Any:
    """In-process for one job; else spawned processes that share the processor's cores evenly.

    On an interrupt the processes are stopped at once; the store keeps what was finished.
    """
    if jobs < 1:
        raise BadInput(f"jobs={jobs}: give 1 or more.")
    if jobs == 1:
        yield InProcess()
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (max(cores() // jobs, 1), registry.files))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    pool.shutdown()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def automatic_jobs(device: str) -> int:
    """One process a core, at most four (each holds the images); a GPU is not shared."""
    return min(cores(), 4) if device == "cpu" else 1


def _start_worker(threads: int, plugins: list[Path]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _keep_memory()
    for path in plugins:
        registry.add(path)


def _keep_memory() -> None:
    """What is freed stays with the process: to return and ask again for it in every step takes a twentieth of it."""
    with suppress(OSError, AttributeError):  # not the C library of GNU
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**30)


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers; they would go on for nobody."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def run(
    plan: Plan,
    store: Store,
    *,
    jobs: int = 1,
    mode: Mode = "resume",
    device: str | None = None,
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
        tell: called with "start", "step", "done", "failed", "skipped" or "cached", the stage, and its record
            (of "step": `step`, `steps`, `loss`; in-process only).

    Raises:
        StoreError: the store cannot be written; what was finished stays.
        DistrustError: a worker process was killed; what was finished stays.
    """
    outcome = Outcome()
    waiting: dict[str, Stage] = {}
    for key, stage in plan.stages.items():
        record = kept(store, key, mode)
        if record is None:
            waiting[key] = stage
            continue
        outcome.records[key] = record
        outcome.cached += 1
        tell("cached", stage, record)
    if mode == "only-cached":
        outcome.missing = len(waiting)
        return outcome
    if waiting:
        store.check_writable()
        with executor(jobs) as pool:
            _drain(waiting, outcome, pool, jobs, store, device, tell)
    return outcome


def kept(store: Store, key: str, mode: Mode) -> Record | None:
    """What the store has of a stage and this mode leaves standing; None where the stage has to run."""
    record = None if mode == "force" else store.record(key)
    return None if record and mode == "retry" and record["state"] != "done" else record


def _drain(
    waiting: dict[str, Stage],
    outcome: Outcome,
    pool: Executor,
    jobs: int,
    store: Store,
    device: str | None,
    tell: Tell,
) -> None:
    queue = _Queue(waiting, device)
    running: dict[Future[list[Record]], list[Stage]] = {}
    while queue or running:
        while queue and len(running) < jobs:
            stages = queue.take(jobs - len(running))
            broken = _broken(stages[0], outcome.records)
            for stage in stages:
                if broken:
                    _finish(stage, _inherited(broken[0], outcome.records[broken[0].key]), outcome, tell)
                    queue.release(stage)
                else:
                    tell("start", stage, {})
            if not broken:
                with watching(_step_teller(stages[0], tell)):
                    running[pool.submit(work, stages, store.url, device)] = stages
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            stages = running.pop(future)
            outcome.ran += len(stages)
            try:
                records = future.result()
            except BrokenExecutor:
                raise DistrustError(
                    "a worker process was killed, perhaps for want of memory. What was finished is still there; "
                    "run the same command again, with fewer jobs."
                ) from None
            for stage, record in zip(stages, records, strict=True):
                _finish(stage, record, outcome, tell)
                queue.release(stage)


class _Queue:
    """Stages whose parents are all there, in the plan's order; each is looked at once for every parent."""

    def __init__(self, waiting: Mapping[str, Stage], device: str | None = None) -> None:
        self.device = device
        self.place = {key: place for place, key in enumerate(waiting)}
        self.children: dict[str, list[Stage]] = {key: [] for key in waiting}
        self.missing: dict[str, int] = {}
        self.ready: list[tuple[int, Stage]] = []
        self.alike: dict[str | None, dict[str, Stage]] = {}
        for stage in waiting.values():
            parents = [parent.key for parent in stage.parents if parent.key in waiting]
            self.missing[stage.key] = len(parents)
            for key in parents:
                self.children[key].append(stage)
            if not parents:
                self._add(stage)

    def __bool__(self) -> bool:
        return bool(self.ready)

    def take(self, free: int) -> list[Stage]:
        """The next stage, and those that are carried out together with it: their share, of so many free processes."""
        _, stage = heapq.heappop(self.ready)
        alike = self.alike.get(together(stage, self.device), {})
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
        for child in self.children[stage.key]:
            self.missing[child.key] -= 1
            if not self.missing[child.key]:
                self._add(child)

    def _add(self, stage: Stage) -> None:
        heapq.heappush(self.ready, (self.place[stage.key], stage))
        if (group := together(stage, self.device)) is not None:
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
    tell(record["state"], stage, record)


def _inherited(parent: Stage, record: Record) -> Record:
    """A stage whose parent has nothing to give shares its fate; nothing is stored, so a retry reaches it."""
    error = record.get("error", "")
    if not error.startswith("after "):
        error = f"after {parent.label}: {error}"
    return {"state": record["state"], "error": error, "flags": record["flags"], "seconds": 0.0}
