"""How much memory does a large set take? 224×224 pictures are opened, poisoned, trained on, measured and scanned.

python benchmarks/large.py [--images N] [--goal GIB] [--out FILE]

The pictures are a few, linked under many names. One process does all of it; in every step, the most anonymous memory
that it holds is noted (RssAnon of /proc/self/status, looked at every 10 ms). Pages of mapped files are the kernel's,
which takes them back when it needs them, and are not counted; the most of all pages stands beside, as `rss`. Training
takes a few steps, the statistics of the pixels and the comparison of the poisoned set with the clean one all images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from decode import SIDE, pictures

import distrust as dt
from distrust.data import roles
from distrust.data.images import changed

DISTINCT, NETWORK, BATCH, STEPS, MEASURED = 500, "wrn16-1", 32, 15, 300
DETECTOR = "trigger_search[steps=4,batch_size=4]"  # times the number of classes


def linked(root: Path, count: int) -> None:
    """A folder of `count` pictures."""
    files = pictures(root, min(DISTINCT, count), ".jpg")
    for row in range(len(files), count):
        os.link(files[row % len(files)], files[row % len(files)].with_stem(f"{row:06}"))


def anonymous() -> int:
    """Bytes of memory that no file is behind."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Watch:
    """The most memory of every step."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Watch what is done inside."""
        done, most, start = threading.Event(), [anonymous()], time.perf_counter()

        def look() -> None:
            while not done.wait(0.01):
                most[0] = max(most[0], anonymous())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        seconds = round(time.perf_counter() - start, 1)
        self.steps[name] = {"gib": round(max(most[0], anonymous()) / 2**30, 3), "seconds": seconds}
        print(name, self.steps[name], flush=True)


def main() -> None:
    """Go through all steps, and write down what each of them held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000, help="pictures in the folder (default: 100000)")
    parser.add_argument("--goal", type=float, default=4.0, help="GiB that no step may exceed (default: 4)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "large.json")
    wanted = parser.parse_args()
    watch = Watch()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        linked(Path(folder) / "set", wanted.images)
        os.environ["DISTRUST_CACHE"] = folder
        with watch.step("open"):
            train, test = dt.images(Path(folder) / "set")
        with watch.step("open again"):
            train, test = dt.images(Path(folder) / "set")
        with watch.step("roles"):
            cut = roles(train)
        with watch.step("poison"):
            poisoned, backdoor = dt.attacks.badnets(cut.train, target=0, rate=0.1)
        with watch.step("statistics"):
            net = dt.model(NETWORK, poisoned)
        with watch.step("compare"):
            stamped = int(changed(cut.train, poisoned).sum())
        with watch.step("batches"):
            shown = sum(len(y) for _, y in poisoned.batches(BATCH, dt.rng("batches"), dt.Augment()))
        with watch.step("fit"):
            some = poisoned[torch.randperm(len(poisoned), generator=dt.rng("some"))[: STEPS * BATCH]]
            net = dt.fit(net, some, epochs=1, batch_size=BATCH)
        with watch.step("measure"):
            dt.measure(net, test[:MEASURED], backdoor)
        with watch.step("scan"):
            dt.scan(dt.Suspect(net, cut.clean, test, (), "benchmark", "pictures"), DETECTOR)
        bytes_ = (len(train) + len(test)) * train.x[0].numel()
    most = max(step["gib"] for step in watch.steps.values())
    result = {
        "what": f"GiB of anonymous memory, {wanted.images} pictures of {SIDE}×{SIDE}, {NETWORK}, batches of {BATCH}",
        "pixels_gib": round(bytes_ / 2**30, 2), "stamped": stamped, "shown": shown, "steps": watch.steps,
        "most": most, "goal": wanted.goal, "met": most <= wanted.goal,
        "rss": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "environment": {
            "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        },
    }  # fmt: skip
    text = json.dumps(result, indent=1, ensure_ascii=False)
    print(text)
    wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
