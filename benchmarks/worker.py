"""How much memory does a worker of a study on CIFAR-10 hold? Its stages, one after the other, in this fresh process.

python benchmarks/worker.py [--seeds N] [--goal GB] [--out FILE]

For every seed: images are opened and cut into roles, BadNets plants its trigger, a WRN-16-1 trains a few steps, and
predicts the test images with and without the trigger. Needs CIFAR-10 in DISTRUST_DATA. Images are decoded before, by
a process of its own, as they are but once. The most memory is what the system says of the process (maxrss), in which
the pages of mapped files count too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

SEEDS, STEPS, BATCH = 3, 4, 128


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"whose images stay open (default: {SEEDS})")
    parser.add_argument("--goal", type=float, default=1.1, help="GB that it may hold (default: 1.1)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "worker.json")
    wanted = parser.parse_args()
    subprocess.run([sys.executable, "-c", "import distrust; distrust.images('cifar10')"], check=True)
    os.environ["OMP_NUM_THREADS"] = "1"

    import torch

    import distrust as dt
    from distrust.measurement import predict
    from distrust.study import runner, steps

    runner._keep_memory()  # as every worker does
    most: dict[str, float] = {}

    def note(what: str) -> None:
        most[what] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)

    note("imports")
    for seed in range(1, wanted.seeds + 1):
        parts = {"source": "cifar10", "held": 0.05, "validation": 0.05, "seed": seed}
        train, _, test = (steps.images(role=role, **parts) for role in ("train", "validation", "test"))
        note(f"images, seed {seed}")
        poisoned, backdoor = dt.attacks.badnets(train, rng=dt.rng(seed))
        note(f"attack, seed {seed}")
        net = dt.model("wrn16-1", poisoned)
        net = dt.fit(net, poisoned[: STEPS * BATCH], epochs=1, batch_size=BATCH)
        note(f"training, seed {seed}")
        predict(net, test)
        predict(net, test, backdoor)
        note(f"predictions, seed {seed}")
    result = {
        "what": f"GB that a worker has held at most, CIFAR-10, {wanted.seeds} seeds",
        "most": most, "goal": wanted.goal, "met": max(most.values()) <= wanted.goal,
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()},
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
