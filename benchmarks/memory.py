"""How much memory do searches take, with more classes, larger images, more places? Peaks of processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import distrust as dt
from distrust.models import frozen, parts, room

from .measure import Row, Scale, number

GOAL = 4000  # megabytes
BATCH = 32  # images that trigger_search shows every class


class Case(NamedTuple):
    """A search of one step, which needs what every step needs."""

    detector: str
    network: str  # "": the detector trains its own on a synthetic set
    classes: int
    side: int
    options: dict[str, Any]
    fits: bool  # the search without bounds, too


PROBE = {"images": 12, "epochs": 1, "networks": 1}
CASES = {
    "10 classes": Case("trigger_search", "wrn16-1", 10, 32, {"steps": 1}, True),
    "100 classes": Case("trigger_search", "wrn16-1", 100, 32, {"steps": 1}, True),
    "1,000 classes": Case("trigger_search", "wrn16-1", 1000, 32, {"steps": 1}, False),
    "128 images of 224 pixels": Case("decree", "resnet50-224", 10, 224, {"steps": 1}, False),
    "36 places at 224 pixels": Case("patch_probe", "", 10, 224, {"stride": 44, **PROBE}, True),
    "121 places at 224 pixels": Case("patch_probe", "", 10, 224, {"stride": 22, **PROBE}, False),
    "4 classes of 8 pixels": Case("trigger_search", "wrn10-1", 4, 8, {"steps": 1}, True),
}
FEW = ["10 classes", "100 classes", "36 places at 224 pixels"]


def rows(scale: Scale) -> Iterator[Row]:
    """Megabytes that no file backs, at most, in a fresh process: as the library is, and with its bounds lifted."""
    names = scale.of([*CASES][:-1], FEW, [*CASES][-1:])
    for name in names:
        case = CASES[name]
        for bounded in (True, False) if case.fits else (True,):
            command = [sys.executable, "-m", __spec__.name, name, "bounded" if bounded else "unbounded"]
            told = [json.loads(_run(command)) for _ in range(scale.rounds(1))]
            note = f"one batch of all would keep {told[0]['whole']:,} MB" if told[0]["whole"] else ""
            what = f"{case.detector}, {name}"
            peaks = [float(each["peak"]) for each in told]
            yield number(what, "peak" if bounded else "without bounds", peaks, GOAL if bounded else None, "MB", note)


def _run(command: list[str]) -> str:
    folder = Path(__file__).resolve().parents[1]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout


def peak(case: Case, bounded: bool) -> dict[str, int]:
    """Megabytes at most while a case runs here, and what its images would keep for their gradients in one batch."""
    if not bounded:
        parts.BYTES = parts.PIXELS = 2**62
        sys.modules["distrust.methods.detectors.trigger_search"].TOGETHER = 2**62  # type: ignore[attr-defined]
    encoder = case.detector == "decree"
    count = max(case.classes, 128) if case.network else 3 * case.classes
    x = torch.randint(256, (count, 3, case.side, case.side), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(count) % case.classes, tuple(map(str, range(case.classes))))
    suspect = dt.model(case.network, images, head=not encoder) if case.network else images
    found, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found.append(_anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    getattr(dt.detectors, case.detector)(suspect, images, **case.options, rng=dt.rng(0))
    done.set()
    watcher.join()
    whole = 0
    if isinstance(suspect, torch.nn.Module):
        parts.BYTES = 10**12
        together = 128 if encoder else BATCH * case.classes
        whole = round(together * 1e6 / room(frozen(suspect), images.x.shape[1:]))
    return {"peak": max(found), "whole": whole}


def _anonymous() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) // 1000


if __name__ == "__main__":
    dt.detectors.trigger_search  # noqa: B018 - imports it
    print(json.dumps(peak(CASES[sys.argv[1]], sys.argv[2] == "bounded")))
