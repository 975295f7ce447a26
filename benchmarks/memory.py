"""How much memory do searches take, with more classes, larger images and more places? Peaks of fresh processes.

python benchmarks/memory.py [--out FILE]

Each case runs twice, in a process of its own: bounded, as the library is, and whole, with its bounds lifted, where that
is within reach of a common machine. Few steps: a step's memory is every step's. `whole_needs` is what one image keeps
for its gradient, times the images that would be in one batch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import torch

import distrust as dt
from distrust.models import frozen, parts, room

CASES = {  # name → (detector, model or none, classes, pixels a side, options, whether the whole fits)
    "trigger_search, 10 classes": ("trigger_search", "wrn16-1", 10, 32, {"steps": 1}, True),
    "trigger_search, 100 classes": ("trigger_search", "wrn16-1", 100, 32, {"steps": 1}, True),
    "trigger_search, 1000 classes": ("trigger_search", "wrn16-1", 1000, 32, {"steps": 1}, False),
    "decree, 128 images of 224 pixels": ("decree", "resnet50-224", 10, 224, {"steps": 1}, False),
    "patch_probe, 36 places at 224 pixels": ("patch_probe", None, 10, 224, {"stride": 44}, True),
    "patch_probe, 121 places at 224 pixels": ("patch_probe", None, 10, 224, {"stride": 22}, False),
}
PROBE = {"images": 12, "epochs": 1, "networks": 1}


def anonymous() -> float:
    """Megabytes of this process that no file backs."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["RssAnon"].split()[0]) / 1024


def peak(case: str, whole: bool) -> dict[str, float]:
    """Run a case here; megabytes before it and at most, while it ran."""
    detector, network, classes, side, options, _ = CASES[case]
    if whole:
        parts.BYTES = parts.PIXELS = 2**62
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
    told = {"before": round(found[0]), "peak": round(max(found))}
    if isinstance(suspect, torch.nn.Module):
        one_batch = 128 if detector == "decree" else 32 * classes
        parts.BYTES = 10**12
        told["whole_needs"] = round(one_batch * 1e6 / room(frozen(suspect), (3, side, side)))
    return told


def main() -> None:
    """Each case in fresh processes; print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    parser.add_argument("--case", choices=CASES, help="run this one here")
    parser.add_argument("--whole", action="store_true", help="with the bounds lifted")
    wanted = parser.parse_args()
    if wanted.case:
        print(json.dumps(peak(wanted.case, wanted.whole)))
        return
    result: dict[str, object] = {
        "what": "anonymous resident megabytes of a process: before the call, and its peak during one step",
        "environment": {
            "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "machine": platform.machine(),
        },
    }  # fmt: skip
    for case, (*_, fits) in CASES.items():
        rows = {}
        for way in ("bounded", "whole") if fits else ("bounded",):
            command = [sys.executable, __file__, "--case", case, *(["--whole"] if way == "whole" else [])]
            rows[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        needs = rows["bounded"].pop("whole_needs", None)
        rows.get("whole", {}).pop("whole_needs", None)
        result[case] = rows | ({"whole_needs": needs} if needs else {})
        print(case, json.dumps(result[case]), flush=True)
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
