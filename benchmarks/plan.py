"""How long before any work starts: a grid of 10,000 cells planned, commands that only look something up, imports?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from distrust.study import make_plan
from distrust.study.spec import study_from

from .measure import Row, Scale, number, ratio, timed

COMMAND = str(Path(sys.executable).with_name("distrust"))
RESULTS = str(Path(__file__).parents[1] / "results" / "nad-mini")


def rows(scale: Scale) -> Iterator[Row]:
    """Seconds of each, all measured once a round."""
    side = scale.of(10, 6, 2)
    study = study_from(grid(side))
    plan = make_plan(study)
    with tempfile.TemporaryDirectory() as store:
        ways = {
            "plan": lambda: make_plan(study),
            "distrust --help": process(COMMAND, "--help"),
            "import distrust": process(sys.executable, "-c", "import distrust"),
            "python": process(sys.executable, "-c", ""),
        }
        looks = {
            "distrust list": process(COMMAND, "list"),
            "distrust show nad": process(COMMAND, "show", "nad"),
            "distrust status": process(COMMAND, "status", "--store", store),
            "distrust results": process(COMMAND, "results", RESULTS),
            "distrust list, the first time": lambda: first(COMMAND, "list"),
        }
        more = {
            "import distrust.study.plan": process(sys.executable, "-c", "import distrust.study.plan"),
            "import torch": process(sys.executable, "-c", "import torch"),
        }
        ways |= scale.of({**looks, **more}, looks, {})
        seconds = timed(ways, scale.rounds(3), warm=scale.name != "tiny")
    what = f"{len(plan.cells):,} cells, {len(plan.stages):,} stages"
    yield number(what, "plan", seconds["plan"], scale.of(5.0, None, None))
    yield number("a process", "distrust --help", seconds["distrust --help"], 0.3)
    yield number("a process", "import distrust", seconds["import distrust"], 0.2)
    yield ratio("a process", "distrust --help", "python", seconds)
    for name in scale.of(looks, looks, {}):
        yield number("a process", name, seconds[name], None if name.endswith("first time") else 1.5)
    if scale.name == "usual":
        yield ratio("a process", "import distrust.study.plan", "import torch", seconds)


def grid(side: int) -> dict[str, object]:
    """So many rates × temperatures × defences × seeds, each with its control arm."""
    return {
        "name": "large",
        "seeds": side,
        "attack": f"badnets[rate=[{','.join(f'0.0{i}' for i in range(side))}]]",
        "distiller": f"kd[temperature=[{','.join(map(str, range(1, side + 1)))}]]",
        "defense": f"finetune[epochs=[{','.join(map(str, range(1, side + 1)))}]]",
    }


def first(*command: str) -> None:
    """Run a command with an empty cache: later ones remember what methods say of themselves."""
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DISTRUST_CACHE": cache})


def process(*command: str) -> Callable[[], object]:
    """Run a command to its end."""
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
