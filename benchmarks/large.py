"""How much memory does a process hold that trains on, measures and scans a large set, and a study's worker?"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import distrust as dt
from distrust import workers
from distrust.data.images import changed
from distrust.measurement import predict
from distrust.study import steps

from .decode import linked
from .measure import Row, Scale, number

GOALS = {"large": 4 * 2**30 / 1e9, "worker": 1.1}  # GB
BATCH, STEPS, MEASURED = 32, 14, 300
PARTS = {"held": 0.05, "validation": 0.05}


def rows(scale: Scale) -> Iterator[Row]:
    """Each in a fresh process, on pictures that one before it has decoded.

    A large set: what no file is behind (RssAnon) at most, in every step; pages of mapped files are the kernel's, which
    takes them back when it needs them. Statistics, the comparison of the poisoned set with the clean one, and a pass
    over its batches read all of it; training, measuring and scanning some. A worker: all that the system counts.
    """
    count, side = scale.of((100_000, 224), (5000, 224), (700, 16))
    network = scale.of("wrn16-1", "wrn16-1", "wrn10-1")
    for step, values in _fresh("large", count, side, network, scale.rounds(1)).items():
        yield number(f"{count} pictures of {side}×{side}: {step}", "anonymous", values, GOALS["large"], "GB")
    count, side = scale.of((60_000, 32), (20_000, 32), (700, 16))
    for step, values in _fresh("worker", count, side, network, scale.rounds(1)).items():
        yield number(f"{count} pictures of {side}×{side}: {step}", "worker", values, GOALS["worker"], "GB")


def _fresh(case: str, count: int, side: int, network: str, rounds: int) -> dict[str, list[float]]:
    """What a process of its own says of every step, so many times."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        linked(Path(folder) / "set", count, side, ".jpg")
        environment = {**os.environ, "DISTRUST_CACHE": folder}
        for case_ in ("open", *[case] * rounds):
            command = [sys.executable, "-m", __name__, case_, f"{folder}/set", network]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[1]
            )
            if case_ == case or case == "large":
                for step, value in json.loads(done.stdout.splitlines()[-1]).items():
                    found.setdefault(step, []).append(value)
    return found


class _Watch:
    """The most anonymous memory of every step, in GB; on its own thread, every 10 ms."""

    def __init__(self) -> None:
        self.most: dict[str, float] = {}

    def __call__(self, name: str, call: Callable[[], object]) -> object:
        """Call, and watch meanwhile."""
        done, found = threading.Event(), [_anonymous()]

        def look() -> None:
            while not done.wait(0.01):
                found.append(_anonymous())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            return call()
        finally:
            done.set()
            watcher.join()
            self.most[name] = max(*found, _anonymous())


def _anonymous() -> float:
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["RssAnon"].split()[0]) * 1024 / 1e9


def _open(source: str, network: str) -> dict[str, float]:
    watch = _Watch()
    watch("first opening", lambda: dt.images(source))
    return watch.most


def _large(source: str, network: str) -> dict[str, float]:
    watch = _Watch()
    train, test = watch("next opening", lambda: dt.images(source))
    cut = watch("roles", lambda: dt.roles(train))
    poisoned, backdoor = watch("attack", lambda: dt.attacks.badnets(cut.train, target=0, rate=0.1))
    net = watch("statistics", lambda: dt.model(network, poisoned))
    watch("comparison", lambda: changed(cut.train, poisoned))
    watch("batches", lambda: [len(y) for _, y in poisoned.batches(BATCH, dt.rng("batches"), dt.Augment())])
    some = poisoned[torch.randperm(len(poisoned), generator=dt.rng("some"))[: STEPS * BATCH]]
    net = watch("training", lambda: dt.fit(net, some, epochs=1, batch_size=BATCH))
    part = test[:: max(len(test) // MEASURED, 1)]
    watch("measurement", lambda: dt.measure(net, part, backdoor))
    suspect = dt.Suspect(net, cut.clean, test, (), "benchmark", "pictures")
    watch("scan", lambda: dt.scan(suspect, "neural_cleanse[steps=1]"))
    return watch.most


def _worker(source: str, network: str) -> dict[str, float]:
    """As `distrust run` has it: three seeds, whose images stay open."""
    workers.keep_memory()
    torch.set_num_threads(1)
    most: dict[str, float] = {}
    for seed in (1, 2, 3):
        train, _, test = (
            steps.images(source=source, role=role, seed=seed, **PARTS) for role in ("train", "validation", "test")
        )
        poisoned, backdoor = dt.attacks.badnets(train, target=0, rate=0.1, rng=dt.rng(seed))
        net = dt.fit(dt.model(network, poisoned), poisoned[:512], epochs=1, batch_size=128)
        predict(net, test)
        predict(net, test, backdoor)
        most[f"seed {seed}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return most


if __name__ == "__main__":
    print(json.dumps({"open": _open, "large": _large, "worker": _worker}[sys.argv[1]](*sys.argv[2:])))
