"""How much memory do searches take, with more classes, larger images and more places?"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import torch

import distrust as dt
from distrust.models import parts

from .measure import Row, Scale, number

GOAL = 4.0  # GB that no file backs, in a search
TINY = "neural_cleanse, 10 classes"
CASES = {  # name → (detector, model or none, classes, pixels a side, options, whether the whole fits)
    "neural_cleanse, 10 classes": ("neural_cleanse", "wrn16-1", 10, 32, {"steps": 1}, True),
    "neural_cleanse, 100 classes": ("neural_cleanse", "wrn16-1", 100, 32, {"steps": 1}, True),
    "neural_cleanse, 1000 classes": ("neural_cleanse", "wrn16-1", 1000, 32, {"steps": 1}, False),
    "decree, 128 images of 224 pixels": ("decree", "resnet50-224", 10, 224, {"steps": 1}, False),
    "patch_probe, 36 places at 224 pixels": ("patch_probe", None, 10, 224, {"stride": 44}, True),
    "patch_probe, 121 places at 224 pixels": ("patch_probe", None, 10, 224, {"stride": 22}, False),
}
PROBE = {"images": 12, "epochs": 1, "networks": 1}


def rows(scale: Scale) -> Iterator[Row]:
    """Each case bounded, as the library is, and with its bounds lifted where that is within reach of a common machine.

    A process of its own for each; few steps, as a step's memory is every step's.
    """
    for case, (*_, fits) in CASES.items():
        if case != TINY and scale.of(False, False, True):
            continue
        for way in ("bounded", "whole") if fits else ("bounded",):
            command = [sys.executable, "-m", __name__, case, way]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
            yield number(case, way, [float(said.stdout)], GOAL if way == "bounded" else None, "GB")


def anonymous() -> float:
    """Gigabytes of this process that no file backs."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["RssAnon"].split()[0]) * 1024 / 1e9


def peak(case: str, whole: bool) -> float:
    """Run a case here; the most gigabytes while it ran."""
    detector, network, classes, side, options, _ = CASES[case]
    if whole:
        parts.BYTES = parts.PIXELS = 2**62
        import_module("distrust.methods.detectors._classes").TOGETHER = 2**62  # type: ignore[attr-defined]
    count = max(classes, 128) if network else 3 * classes
    x = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(count) % classes, tuple(map(str, range(classes))))
    suspect = dt.model(network, images, head=detector != "decree") if network else images
    found, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    getattr(dt.detectors, detector)(suspect, images, **options, **({} if network else PROBE), rng=dt.rng(0))
    done.set()
    watcher.join()
    return max(found)


if __name__ == "__main__":
    print(peak(sys.argv[1], sys.argv[2] == "whole"))
