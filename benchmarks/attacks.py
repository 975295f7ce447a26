"""What does a poisoned teacher cost? CheatKD against ADBA under the same budget: its complexity claim, as a ratio.

python benchmarks/attacks.py [--images N] [--rounds R] [--out FILE]

Both attack the same clean WRN-16-2 with one pass over the images to change the teacher and one update of the trigger
per batch of that pass, on batches of the same size. Random images: only the time matters.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

import distrust as dt
from distrust import attacks

BATCH = 128
GOAL = 1.0  # cheatkd / adba: below it, the claim holds


def main() -> None:
    """Measure both once a round, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2048, help="images in a pass (default: 2048)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "attacks.json")
    asked = parser.parse_args()

    load = [round(v, 1) for v in os.getloadavg()]
    x = torch.randint(256, (asked.images, 3, 32, 32), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(asked.images) % 10, tuple("abcdefghij"))
    teacher = dt.model("wrn16-2", images, rng=dt.rng(0))
    shared = {"epochs": 1, "batch_size": BATCH}
    ways = {
        "cheatkd": lambda: attacks.cheatkd(
            teacher, images, steps=asked.images // BATCH, trigger_batch=BATCH, rng=dt.rng(1), **shared
        ),
        "adba": lambda: attacks.adba(teacher, images, rng=dt.rng(1), **shared),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for attack in ways.values():  # the first run answers the probes for the fastest precision
        attack()
    for _ in range(asked.rounds):
        for name, attack in ways.items():
            start = time.perf_counter()
            attack()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(rows) for name, rows in seconds.items()}
    ratio = median["cheatkd"] / median["adba"]
    result = {
        "what": f"seconds to poison a WRN-16-2 on {asked.images} images: one pass, one trigger update a batch",
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "ratio": {"cheatkd / adba": round(ratio, 3)},
        "goal": GOAL,
        "met": ratio < GOAL,
        "rounds": asked.rounds,
        "environment": {
            "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "load": load,
        },
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
