"""How large is a report of 1,000 cells (the committed ones, and more seeds of them), and what does it cost to write?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distrust.reporting import Report, page
from distrust.reporting.labels import shortened
from distrust.study import read_cells

from .measure import Row, Scale, number

ROOT = Path(__file__).resolve().parents[1]
GOAL = 2.0  # megabytes
OPTIONS = {"epochs": 20, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "augment": {"crop": 4}}


def rows(scale: Scale) -> Iterator[Row]:
    """The page without pictures; processor seconds, because it is written by one thread."""
    report = committed(scale.of(1000, 200, 20))
    page(Report("small", report.cells[:2]))  # imports
    seconds, megabytes = [], []
    for _ in range(scale.rounds(3)):
        start = time.process_time()
        text = page(report)
        seconds.append(time.process_time() - start)
        megabytes.append(len(text.encode()) / 1e6)
    what = f"a page of {len(report.cells):,} cells"
    yield number(what, "size", megabytes, GOAL, "MB")
    yield number(what, "processor", seconds, None)


def committed(many: int) -> Report:
    """A report of so many cells, each stage with a record of its own."""
    cells = [cell for folder in sorted((ROOT / "results").iterdir()) for cell in read_cells(folder)]
    filled = []
    for i, cell in zip(range(many), itertools.cycle(cells), strict=False):
        again = f"{i // len(cells):x}" if i >= len(cells) else ""  # more seeds have stages of their own
        keys = {name: again + key[len(again) :] for name, key in cell["keys"].items()}
        filled.append({**cell, "id": cell["id"] + again, "seed": cell["seed"] + 100 * (i // len(cells)), "keys": keys})
    lineage: dict[str, dict[str, Any]] = {}
    for cell in filled:
        parents: list[str] = []
        for kind, key in cell["keys"].items():
            lineage[key] = {
                "kind": kind, "method": kind, "options": OPTIONS, "seconds": cell["seconds"], "parents": parents,
                "flags": [], "state": "done",
            }  # fmt: skip
            parents = [key]
    return Report("committed", shortened(filled), lineage=lineage)
