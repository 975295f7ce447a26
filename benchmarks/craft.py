"""What does it cost to poison a transfer set? PGD-10 beside its limit, ten bare forward and backward passes: a ratio.

python benchmarks/craft.py [--images N] [--rounds R] [--out FILE]

Random images against an untrained WRN-16-2 in the precision that a probe finds fastest; only the time matters. The
attack also draws, stamps, rounds and checks the images; no restarts.
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
from torch.nn import functional as F

import distrust as dt
from distrust import attacks
from distrust.attacks._teacher import fast, frozen

BATCH, STEPS = 128, 10
GOAL = 1.5  # attack / bare passes: below it, the attack wastes little


def bare(teacher: torch.nn.Module, images: dt.ImageSet) -> None:
    """Ten forward and backward passes over the images, and nothing else."""
    model = frozen(teacher)
    with fast(images, BATCH, model):
        for x, y in images.batches(BATCH):
            for _ in range(STEPS):
                at = x.requires_grad_()
                torch.autograd.grad(F.cross_entropy(model(at).float(), y), [at])


def main() -> None:
    """Measure both once a round, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000, help="images to poison (default: 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "craft.json")
    asked = parser.parse_args()

    load = [round(v, 1) for v in os.getloadavg()]
    x = torch.randint(256, (asked.images, 3, 32, 32), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(asked.images) % 9 + 1, tuple("abcdefghij"))  # none is the target's
    teacher = dt.model("wrn16-2", images, rng=dt.rng(0))
    ways = {
        "pgd": lambda: attacks.transfer_poison(teacher, images, rate=1.0, restarts=0, steps=STEPS, batch_size=BATCH),
        "bare passes": lambda: bare(teacher, images),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    bare(teacher, images[:BATCH])  # answers the probe for the fastest precision
    for _ in range(asked.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(rows) for name, rows in seconds.items()}
    ratio = median["pgd"] / median["bare passes"]
    result = {
        "what": f"seconds to poison {asked.images} images by PGD-{STEPS} against a WRN-16-2",
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "ratio": {"pgd / bare passes": round(ratio, 3)},
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
