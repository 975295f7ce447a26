"""Live: what runs on a store right now, as each run says it in a small file there, and whoever looks reads it.

The file `.run-MACHINE-PROCESS.json` is written anew while something changes, and at times when nothing does; its run
removes it. One whose process has ended, or that grows old, tells of a run that was killed; the next run removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .graph import Stage
from .places import Folder, Objects, ended, machine
from .records import Record
from .store import Store

Seen = dict[str, Any]
NAME = re.compile(r"\.run-([0-9a-f]{8})-([0-9]+)\.json")
BEAT = 1.0  # seconds between two looks at whether something changed
QUIET = 15.0  # seconds after which a run says that it is there, though nothing changed
SILENT = 90.0  # seconds without a word after which nobody knows
LAST = 5  # failures that are told


@contextlib.contextmanager
def told(store: Store, facts: Seen, shares: Callable[[Stage], float], total: float) -> Iterator[Callable[..., None]]:
    """Tell of a run as long as it lasts; gives what hears its events: (event, stage, record).

    Args:
        store: where it tells.
        facts: of the run: study, budget, cells, to_run.
        shares: stage → its share of the work.
        total: the work.
    """
    place, name, lock, over = store.place, f".run-{machine()}-{os.getpid()}.json", threading.Lock(), threading.Event()
    now: Seen = {**facts, "node": platform.node(), "machine": machine(), "process": os.getpid(), "began": time.time()}
    now |= {"done": 0, "failed": 0, "skipped": 0, "running": {}, "failures": [], "share": 0.0}
    changed = threading.Event()

    def hear(event: str, stage: Stage, record: Record) -> None:
        with lock:
            if event == "start":
                now["running"][stage.key] = {"stage": stage.label, "began": time.time()}
            elif event == "step" and stage.key in now["running"]:
                now["running"][stage.key]["step"] = f"{record['step']}/{record['steps']}"
            elif event in ("done", "failed", "skipped"):
                now["running"].pop(stage.key, None)
                now[event] += 1
                now["share"] += shares(stage) / total if total else 0.0
                if event == "failed":
                    now["failures"] = [*now["failures"], {"stage": stage.label, "error": record["error"]}][-LAST:]
        changed.set()

    def beat() -> None:
        said = 0.0
        while not over.is_set():
            if changed.is_set() or time.monotonic() - said > QUIET:
                changed.clear()
                with lock:
                    text = json.dumps({**now, "updated": time.time()})
                try:
                    _put(place, name, text.encode())
                except OSError:  # no store yet; or a run is not lost because nobody can watch it
                    changed.set()
                said = time.monotonic()
            over.wait(BEAT)

    teller = threading.Thread(target=beat, daemon=True)
    _sweep(place)
    teller.start()
    try:
        yield hear
    finally:
        over.set()
        teller.join()
        with contextlib.suppress(OSError):
            place.drop(name)


def runs(store: Store) -> list[Seen]:
    """The runs that tell of themselves in a store, each with its `state`: "running", "dead" or "silent", and `left`.

    `left` is how many seconds it will take if it goes on as until now; None while nobody can tell.
    """
    found = []
    for name in filter(NAME.fullmatch, store.place.names(".run-")):
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, OSError):
            run = json.loads(store.place.read(name) or b"")
            took, share = time.time() - run["began"], min(run["share"], 1.0)
            state = "dead" if ended(run["machine"], run["process"]) else "running"
            if state == "running" and time.time() - run["updated"] > SILENT:
                state = "silent"
            running = [{"key": key, **facts} for key, facts in run["running"].items()]
            left = round(took * (1 - share) / share) if share and state == "running" else None
            found.append({**run, "running": running, "state": state, "left": left})
    return found


def watch(store: Store, wait: Callable[[float], object] = time.sleep) -> Iterator[list[Seen]]:
    """The runs on a store, again and again as they change; it does not end by itself."""
    before = None
    while True:
        seen = runs(store)
        told = [{**run, "updated": 0, "left": 0} for run in seen]
        if told != before:
            yield seen
        before = told
        wait(BEAT)


def _put(place: Objects, name: str, data: bytes) -> None:
    """Whole or not at all, and not for ever: what the power takes, nobody misses."""
    if isinstance(place, Folder):
        place.put(f"{name}.new", data)
        os.replace(place.at(f"{name}.new"), place.at(name))
    else:
        place.put(name, data)


def _sweep(place: Objects) -> None:
    """Remove what runs left that were killed here."""
    with contextlib.suppress(OSError):
        for name in place.names(".run-"):
            by = NAME.fullmatch(name.removesuffix(".new"))
            if by and ended(by[1], int(by[2])):
                place.drop(name)
