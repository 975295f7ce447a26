"""How long does it take to read the results of 100,000 finished cells, and the status of a store of 100,000 stages?"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distrust.study import read_cells
from distrust.study.records import signed
from distrust.study.store import Store

from .measure import Row, Scale, number, timed
from .plan import COMMAND

ROOT = Path(__file__).resolve().parents[1]
GOAL = 10.0  # seconds


def rows(scale: Scale) -> Iterator[Row]:
    """Commands in processes of their own. A first reading validates every cell's file, later ones what has changed."""
    many = scale.of(100_000, 10_000, 100)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DISTRUST_CACHE": f"{folder}/cache"}
        _cells(Path(folder, "cells"), many)
        _stages(Path(folder, "runs"), many)

        def command(*words: str) -> float:
            seconds = timed({"it": lambda: subprocess.run(
                [COMMAND, *words], check=True, stdout=subprocess.DEVNULL, env=environment)}, 1, warm=False)  # fmt: skip
            return seconds["it"][0]

        first = command("results", f"{folder}/cells")
        later = [command("results", f"{folder}/cells") for _ in range(scale.rounds(3))]
        status = [command("status", "--store", f"{folder}/runs") for _ in range(scale.rounds(3))]
    yield number(f"{many:,} cells", "distrust results", later, GOAL)
    yield number(f"{many:,} cells", "distrust results, the first time", [first], None)
    yield number(f"{many:,} stages", "distrust status", status, GOAL)


def _cells(folder: Path, many: int) -> None:
    """The committed cells again and again, each time of one more seed."""
    folder.mkdir()
    cells = [cell for study in sorted((ROOT / "results").iterdir()) for cell in read_cells(study)]
    for i in range(many):
        again, at = divmod(i, len(cells))
        cell = {**cells[at], "id": f"cell-{i}", "seed": cells[at]["seed"] + 100 * again}
        Path(folder, f"cell-{i}.json").write_text(json.dumps(cell, indent=1))


def _stages(folder: Path, many: int) -> None:
    """Records of stages that are done and made no file."""
    store = Store(folder)
    record = {"state": "done", "kind": "predict", "label": "predict", "recipe": {"method": "predict", "options": {}},
              "parents": [], "taint": [], "flags": [], "seconds": 1.0}  # fmt: skip
    store.save(f"{0:032x}", record)
    written = store.record(f"{0:032x}")
    for i in range(1, many):
        stage = Path(folder, f"{i:032x}")
        stage.mkdir()
        data = json.dumps({**(written or {}), "key": stage.name, "files": {}}, indent=1).encode()
        Path(stage, "stage.json").write_bytes(signed(data))
