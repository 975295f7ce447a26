"""python -m tests.kills 30: kill the driver or a worker of a study again and again; it ends as if nothing had been.

With --ray it runs on a cluster of Ray, two nodes of this machine, which are killed as well.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.study_fixture import plan

from distrust.study import Store, run, score_cells
from distrust.study.store import SIGN

SEEDS = 17  # 12 stages each
HALF = 11_000_000  # bytes of a disk: about half of what they need
BUDGET = {"train": 96, "test": 40, "size": 8, "teacher": {"epochs": 1}, "student": {"epochs": 1}}
STUDY = {"attack": "badnets", "distiller": "kd", "seeds": SEEDS, "budgets": {"cpu": BUDGET}}
DRIVER = """
import sys

if __name__ == "__main__":  # a worker imports this file, too
    from distrust.registry import registry
    from distrust.study import Store, run
    from distrust.study.cluster import Cluster
    from tests.kills import STUDY, plan

    disk, folder, *address = sys.argv[1:]
    registry.add(disk)  # workers load it as well
    sign = "done" if address else "start"  # Ray is given everything at the start
    told = lambda event, stage, record: print(event, flush=True) if event == sign else None
    run(plan(**STUDY), Store(folder), jobs=2, cluster=Cluster(*address) if address else None, tell=told)
"""

DISK = """
import errno
import os
from contextlib import suppress
from pathlib import Path

from distrust.marks import detector
from distrust.study.places import Folder


def used(root):
    for folder, _, files in os.walk(root):  # what goes meanwhile is left out
        for file in files:
            with suppress(FileNotFoundError):
                yield os.stat(os.path.join(folder, file)).st_size


def put(self, path, data, whole=getattr(Folder, "whole", Folder.put)):
    free = max(int(Path({size!r}).read_text()) - sum(used(self.root)), 0)
    whole(self, path, data[:free])  # of what does not fit, a part is written
    if free < len(data):
        raise OSError(errno.ENOSPC, "No space left on device")


@detector(paper="none", on="any")
def disk(suspect, clean, *, rng=None):
    "A plug-in needs a method."


Folder.whole, Folder.put = getattr(Folder, "whole", Folder.put), put
"""


def main(words: Sequence[str]) -> int:
    """Fill the disk, enlarge it, and kill so many times; what is done meanwhile is compared with an undisturbed run."""
    wanted, draw = next((int(word) for word in words if word.isdecimal()), 30), random.Random(0)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # drivers and nodes start elsewhere, and import this file
    with tempfile.TemporaryDirectory() as folder, nodes() if "--ray" in words else nullcontext() as ray:
        root, driver, disk, size = Path(folder), *(Path(folder) / name for name in ("driver.py", "disk.py", "size"))
        driver.write_text(DRIVER)
        disk.write_text(DISK.format(size=str(size)))

        def command(store: Path) -> list[Any]:
            return [sys.executable, driver, disk, store, *([ray.address] if ray else [])]

        store, killed, studies = root / "0", list[str](), 0
        filled = fill(command(store), store, size)
        subprocess.run([sys.executable, driver, disk, root / "calm"], check=True, stdout=subprocess.DEVNULL)
        expected = cells(root / "calm")
        while len(killed) < wanted:
            while len(killed) < wanted and (victim := kill(command(store), store, draw, ray)):
                killed.append(victim)
            subprocess.run(command(store), check=True, stdout=subprocess.DEVNULL)
            there, stages = settled(store), {*plan(**STUDY).stages}
            assert there == stages, f"drafts, or set aside: {there - stages}; missing: {stages - there}"
            assert cells(store) == expected
            studies, store = studies + 1, root / f"{studies + 1}"
    told = {"finished when the disk was full": filled, "studies": studies, "kills": len(killed)}
    print(json.dumps(told | {what: killed.count(what) for what in {*killed}}))
    return 0


def settled(folder: Path, seconds: int = 30) -> set[str]:
    """What lies in a store once nobody writes: a worker may outlive its driver, and leave a draft in the next run."""
    for _ in range(seconds):
        Store(folder).sweep()
        there = {path.name for path in folder.iterdir()} - {SIGN}
        if not any(name.startswith(".") for name in there):
            break
        time.sleep(1)
    return there


def fill(command: Sequence[Any], folder: Path, size: Path) -> int:
    """Run on a disk for half of the study; then it is large enough. Returns how many stages were finished."""
    size.write_text(str(HALF))
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    size.write_text(str(2**40))
    assert done.returncode and "No space left on device" in done.stderr, done.stderr
    there = {p.name for p in folder.iterdir() if not p.name.startswith(".")}  # whoever was ended may leave a draft
    assert there == {*written(folder)}
    assert 20 < len(there) < len(plan(**STUDY).stages)
    return len(there)


def kill(command: Sequence[Any], folder: Path, draw: random.Random, ray: Any) -> str:
    """Start the study and kill its driver, one of its workers or a node; says which, "" if it was done before that."""
    before = written(folder)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        if not process.stdout.readline():
            return ""
        time.sleep(draw.uniform(0, 3))
        workers = on_ray(ray) if ray else children(process.pid)
        victims: dict[str, Callable[[], None]] = {"driver": lambda: os.kill(process.pid, signal.SIGKILL)}
        if workers:
            victims["worker"] = lambda: os.kill(draw.choice(workers), signal.SIGKILL)
            victims["worker, told to end"] = lambda: os.kill(draw.choice(workers), signal.SIGTERM)
        if ray:
            victims["node"] = lambda: ray.remove_node(draw.choice([*ray.worker_nodes]), allow_graceful=False)
        victim = draw.choice([*victims])
        try:
            victims[victim]()
        except ProcessLookupError:
            return ""
        if ray and victim != "driver":
            process.stdout.readline()  # it goes on, or is done
            process.send_signal(signal.SIGINT)
        process.wait(120)
        soon = time.monotonic() + 30
        while any(map(is_alive, workers)):
            assert time.monotonic() < soon, "workers end with their driver"
            time.sleep(0.1)
    if victim == "node":
        ray.add_node(num_cpus=1, **NODE)
    now = written(folder)
    assert {key: now[key] for key in before} == before, "what was finished is not done again"
    return victim


NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextmanager
def nodes() -> Iterator[Any]:
    """A cluster of Ray: a head node, where nothing is carried out, and two others."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **NODE)
        yield made
    finally:
        made.shutdown()


def on_ray(ray: Any) -> list[int]:
    """Processes of its nodes that carry out stages."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in ray.worker_nodes]
    found = [child for raylet in raylets for child in children(raylet, b"ray::")]
    return [pid for pid in found if not command_of(pid).startswith((b"ray::IDLE", b"ray::Dash", b"ray::Runtime"))]


def written(folder: Path) -> dict[str, int]:
    """When each finished stage was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("[0-9a-f]*/stage.json")}


def children(process: int, what: bytes = b"spawn_main") -> list[int]:
    """Of a process, those that carry out stages."""
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [child for file in threads for child in map(int, file.read_text().split()) if what in command_of(child)]


def command_of(process: int) -> bytes:
    """The command line of a process; of none, nothing."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


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
