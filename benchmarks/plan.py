"""How long before any work starts? Planning a grid of 10,000 cells, the import, commands that only look something up.

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
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOOKS = {  # commands that run and train nothing
    "distrust list": ("list",),
    "distrust show": ("show", "nad"),
    "distrust status": ("status",),
    "distrust results": ("results", str(ROOT / "results" / "nad-mini")),
}
GOALS = {
    "plan 10,000 cells": 5.0,
    "distrust --help": 0.3,
    "import distrust": 0.2,
    **dict.fromkeys(LOOKS, 1.5),
}  # seconds


def main() -> None:
    """Measure everything once a round, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "plan.json")
    asked = parser.parse_args()

    load = [round(v, 1) for v in os.getloadavg()]
    where = {"python": platform.python_version(), "cores": os.cpu_count(), "load": load}
    plan, cells, stages = ten_thousand_cells()
    script = str(Path(sys.executable).with_name("distrust"))
    process(script, "list")()  # which remembers what methods say of themselves
    ways = {
        "plan 10,000 cells": plan,
        "distrust --help": process(script, "--help"),
        **{name: process(script, *words) for name, words in LOOKS.items()},
        "distrust list, the first time": lambda: first(script, "list"),
        "import distrust": process(sys.executable, "-c", "import distrust"),
        "import distrust.study.plan": process(sys.executable, "-c", "import distrust.study.plan"),
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
            "import distrust.study.plan / import torch": round(
                median["import distrust.study.plan"] / median["import torch"], 2
            ),
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


def first(*command: str) -> None:
    """Run a command with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "DISTRUST_CACHE": cache}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


if __name__ == "__main__":
    main()
