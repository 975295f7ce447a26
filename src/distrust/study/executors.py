"""Executors: where stages are carried out on this machine, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..errors import BadInput
from ..registry import registry
from ..workers import begin

START = 120.0  # seconds until a process is there, at most


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
    """Spawned processes that share the processor's cores evenly, and the machine's GPUs: each has one of them.

    Args:
        jobs: how many.
        device: torch device of their work.
        timed: what they do is timed.
        threads: of each (default: its share of the cores).
    """

    def __init__(self, jobs: int, device: str | None = None, timed: bool = False, threads: int | None = None) -> None:
        self.jobs, self.cards, self.timed = jobs, cards(device) if jobs > 1 else [], timed
        self.threads, self.others = threads or max(cores() // jobs, 1), set(multiprocessing.active_children())
        self.begin()

    def begin(self) -> None:
        """Make them; if what they do is timed, wait until they are there, which takes seconds."""
        context = multiprocessing.get_context("spawn")
        ready, count = context.Semaphore(0), context.Value("i", 0)
        start = self.threads, registry.files, ready, count, self.cards
        self.pool = ProcessPoolExecutor(self.jobs, context, begin, start)
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
def executor(jobs: int, device: str | None = None, timed: bool = False) -> Iterator[Executor]:
    """In-process for one job, unless it is timed; else spawned processes. What is interrupted is stopped at once.

    Raises:
        BadInput: no jobs.
    """
    if jobs < 1:
        raise BadInput(f"jobs={jobs}: give 1 or more.")
    if jobs == 1 and not timed:
        yield InProcess()
        return
    processes = Processes(jobs, device, timed)
    try:
        yield processes
    except BaseException:
        processes.end()
        raise
    processes.pool.shutdown()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cards(device: str | None) -> list[str]:
    """The GPUs that processes take in turn, as CUDA names them; none where the device is another one, or named."""
    if device != "cuda":
        return []
    import torch

    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count)]
    return names[:count]


def automatic_jobs(device: str) -> int:
    """One process a core, at most four (each holds the images); one a GPU, which is not shared."""
    return min(cores(), 4) if device == "cpu" else max(len(cards(device)), 1)
