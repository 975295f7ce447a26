"""Watching: the runs on a store as they change: a table on a terminal, else a line for every change."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..reporting.text import duration
from ..study import Store
from ..study.live import watch
from .command import Face, inert

WIDTH = 100


def show_runs(face: Face) -> int:
    """Show the runs on the store until Ctrl-C, which ends it with 0."""
    seen = watch(Store(face.store))
    with contextlib.suppress(KeyboardInterrupt):
        if face.json_:
            for runs in seen:
                face.show({"store": face.store, "runs": runs})
        elif sys.stdout.isatty():
            with Live(console=Console(), auto_refresh=False, transient=True) as live:
                for runs in seen:
                    lines = [line[:WIDTH] for run in runs for line in told(run)] or [f"Nothing runs on {face.store}."]
                    live.update(Group(*map(Text, map(inert, lines))), refresh=True)
        else:
            before: list[str] = []
            for runs in seen:
                lines = [line for run in runs for line in told(run, times=False)] or [f"Nothing runs on {face.store}."]
                face.show({}, *(line for line in lines if line not in before))
                before = lines
    return 0


def told(run: dict[str, Any], times: bool = True) -> list[str]:
    """A run in lines: how far it is, what it is at, what failed last."""
    over = run["done"] + run["failed"] + run["skipped"]
    state = "" if run["state"] == "running" else f" ({run['state']}: its process has ended)"
    if run["state"] == "silent":
        state = " (silent: no word for a while)"
    left = f", about {duration(run['left'])} left" if times and run["left"] is not None else ""
    failed = f", {run['failed']} failed" if run["failed"] else ""
    lines = [f"{run['study']} ({run['budget']}) on {run['node']}: {over}/{run['to_run']} stages{failed}{left}{state}"]
    for stage in run["running"]:
        took = f", for {duration(time.time() - stage['began'])}" if times else ""
        step = f", step {stage['step']}" if times and "step" in stage else ""
        lines.append(f"  at {stage['stage']}{step}{took}")
    for failure in run["failures"]:
        lines.append(f"  failed {failure['stage']}: {(failure['error'].strip().splitlines() or [''])[-1]}")
    return lines
