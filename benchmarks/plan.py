"""How long before any work starts: grids of 10,000 and 1,000,000 cells, commands that only look something up, imports?

Memory is what a process took at its highest, imports included.
"""

from __future__ import annotations

import json
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
    yield from dry_run(scale.of(100, 20, 3))
    yield number("a process", "distrust --help", seconds["distrust --help"], 0.3)
    yield number("a process", "import distrust", seconds["import distrust"], 0.2)
    yield ratio("a process", "distrust --help", "python", seconds)
    for name in scale.of(looks, looks, {}):
        yield number("a process", name, seconds[name], None if name.endswith("first time") else 1.5)
    if scale.name == "usual":
        yield ratio("a process", "import distrust.study.plan", "import torch", seconds)


def dry_run(side: int) -> Iterator[Row]:
    """A study of about side³ cells that is only looked at: its CPU seconds and its memory."""
    study = {**grid(side), "seeds": 1}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "large.toml")
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in study.items()))
        command = [COMMAND, "run", str(file), "--dry-run", "--json", "--store", f"{folder}/runs"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout
        with process.stdout as said:
            cells = json.load(said)["cells"]
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = code
    assert code == 0
    yield number(f"{cells:,} cells", "dry run, CPU", [used.ru_utime + used.ru_stime], 60.0)
    yield number(f"{cells:,} cells", "dry run, memory", [used.ru_maxrss * 1024 / 1e9], 1.0, "GB")


def grid(side: int) -> dict[str, object]:
    """So many rates × temperatures × defences × seeds, each with its control arm."""
    return {
        "name": "large",
        "seeds": side,
        "attack": f"badnets[rate=[{','.join(f'0.{i:03}' for i in range(side))}]]",
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
