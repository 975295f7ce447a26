"""How long before any work starts? Planning a grid of 10,000 cells, `distrust --help`, the import.

python benchmarks/plan.py [--rounds R] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

GOALS = {"plan 10,000 cells": 5.0, "distrust --help": 0.5, "import distrust": 0.2}  # seconds


def main() -> None:
    """Measure everything once a round, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "plan.json")
    asked = parser.parse_args()

    load = [round(v, 1) for v in os.getloadavg()]
    where = {"python": platform.python_version(), "cores": os.cpu_count(), "load": load}
    plan, cells, stages = ten_thousand_cells()
    ways = {
        "plan 10,000 cells": plan,
        "distrust --help": process(str(Path(sys.executable).with_name("distrust")), "--help"),
        "import distrust": process(sys.executable, "-c", "import distrust"),
        "import distrust.study": process(sys.executable, "-c", "import distrust.study"),
        "import torch": process(sys.executable, "-c", "import torch"),
        "python": process(sys.executable, "-c", ""),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)

    median = {name: statistics.median(rows) for name, rows in seconds.items()}
    result = {
        "what": f"seconds until work can start; the grid has {cells} cells and {stages} stages",
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "goals": {name: {"goal": goal, "met": median[name] <= goal} for name, goal in GOALS.items()},
        "ratio": {
            "distrust --help / python": round(median["distrust --help"] / median["python"], 2),
            "import distrust.study / import torch": round(median["import distrust.study"] / median["import torch"], 2),
        },
        "rounds": asked.rounds,
        "environment": where,
    }
    text = json.dumps(result, indent=1)
    print(text)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text + "\n")


def ten_thousand_cells() -> tuple[Callable[[], object], int, int]:
    """10 rates × 10 temperatures × 10 defences × 10 seeds, each with its control arm."""
    from distrust.study import make_plan
    from distrust.study.spec import study_from

    study = study_from(
        {
            "name": "large",
            "seeds": 10,
            "attack": f"badnets[rate=[{','.join(f'0.0{i}' for i in range(10))}]]",
            "distiller": f"kd[temperature=[{','.join(map(str, range(1, 11)))}]]",
            "defense": f"finetune[epochs=[{','.join(map(str, range(1, 11)))}]]",
        }
    )
    plan = make_plan(study)
    return lambda: make_plan(study), len(plan.cells), len(plan.stages)


def process(*command: str) -> Callable[[], object]:
    """Run a command to its end."""
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
