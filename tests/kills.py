"""python -m tests.kills 30: kill the driver or a worker of a study again and again; it ends as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.study_fixture import plan

from distrust.study import Store, run, score_cells
from distrust.study.store import SIGN

SEEDS = 10  # 12 stages each
BUDGET = {"train": 96, "test": 40, "size": 8, "teacher": {"epochs": 1}, "student": {"epochs": 1}}
STUDY = {"attack": "badnets", "distiller": "kd", "seeds": SEEDS, "budgets": {"cpu": BUDGET}}
DRIVER = """
import sys

if __name__ == "__main__":  # a worker imports this file, too
    from distrust.study import Store, run
    from tests.kills import STUDY, plan

    told = lambda event, stage, record: print(event, flush=True) if event == "start" else None
    run(plan(**STUDY), Store(sys.argv[1]), jobs=2, tell=told)
"""


def main(words: Sequence[str]) -> int:
    """Kill so many times, then compare with a run that nobody disturbed."""
    times, draw = int(words[0]) if words else 30, random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root, driver = Path(folder), Path(folder) / "driver.py"
        driver.write_text(DRIVER)
        killed = [kill(driver, root / "store", draw) for _ in range(times)]
        subprocess.run([sys.executable, driver, root / "store"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([sys.executable, driver, root / "calm"], check=True, stdout=subprocess.DEVNULL)
        stages = {p.name for p in (root / "store").iterdir()} - {SIGN}
        assert stages == {*plan(**STUDY).stages}, "neither drafts nor anything set aside"
        assert cells(root / "store") == cells(root / "calm")
    print(json.dumps({"kills": sum(killed), "stages": len(stages), "again": 0, "orphans": 0, "drafts": 0}))
    return 0


def kill(driver: Path, folder: Path, draw: random.Random) -> bool:
    """Start the study and kill its driver or one of its workers; False if it was done before that."""
    before = written(folder)
    with subprocess.Popen(
        [sys.executable, driver, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        if not process.stdout.readline():
            return False
        time.sleep(draw.uniform(0, 6))
        workers = children(process.pid)
        victim = draw.choice([process.pid, *workers])
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        process.wait(60)
        time.sleep(1)
        assert not [worker for worker in workers if is_alive(worker)], "workers end with their driver"
    now = written(folder)
    assert {key: now[key] for key in before} == before, "what was finished is not done again"
    return True


def written(folder: Path) -> dict[str, int]:
    """When each finished stage was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("[0-9a-f]*/stage.json")}


def children(process: int) -> list[int]:
    """Of a process, those that carry out stages."""
    found = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_alive(process: int) -> bool:
    """It runs, and is not only waiting to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def cells(folder: Path) -> list[dict]:
    """What must not depend on how the study was run."""
    made, store = plan(**STUDY), Store(folder)
    outcome = run(made, store, mode="only-cached")
    return [{k: v for k, v in c.items() if k not in ("seconds", "env")} for c in score_cells(made, store, outcome)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
