"""How large is a report of 1,000 cells, and how long does it take to write? The committed cells, filled up with seeds.

python benchmarks/page.py [--cells N] [--rounds R] [--out FILE]
"""

from __future__ import annotations

import argparse
import base64
import gzip
import itertools
import json
import os
import platform
import re
import statistics
import time
from pathlib import Path
from typing import Any

from distrust.reporting import Report, page
from distrust.reporting.labels import shortened
from distrust.study import read_cells

ROOT = Path(__file__).resolve().parents[1]
GOAL = 2_000_000  # bytes of a page of 1,000 cells
OPTIONS = {"epochs": 20, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "augment": {"crop": 4}}


def main() -> None:
    """Write the page once a round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=1000, help="cells of the page (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements (default: 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "page.json")
    asked = parser.parse_args()

    load = [round(v, 1) for v in os.getloadavg()]
    report = committed(asked.cells)
    page(Report("small", report.cells[:2]))  # imports
    seconds = []
    for _ in range(asked.rounds):
        start = time.process_time()
        text = page(report)
        seconds.append(time.process_time() - start)
    found = re.search(r'id="data">(.*?)<', text)
    assert found, "a page has its data inside"
    plain = gzip.decompress(base64.b64decode(found[1]))
    size = len(text.encode())
    result = {
        "what": f"a page of {len(report.cells)} cells, those in results/ and more seeds of them; no pictures",
        "bytes": {"page": size, "its data": len(found[1]), "the same as JSON": len(plain)},
        "cpu_seconds": round(statistics.median(seconds), 2),
        "drawings": len(json.loads(plain)["figures"]),
        "goal": GOAL,
        "met": size <= GOAL,
        "rounds": asked.rounds,
        "environment": {"python": platform.python_version(), "cores": os.cpu_count(), "load": load},
    }
    said = json.dumps(result, indent=1)
    print(said)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(said + "\n")


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


if __name__ == "__main__":
    main()
