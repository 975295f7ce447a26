"""What two benchmarks of a ratio share: measuring both ways in turn, and the file that says what came out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def asked(what: str, images: int, name: str) -> argparse.Namespace:
    """The options of such a benchmark: --images, --rounds, --out."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--images", type=int, default=images, help=f"images of one measurement (default: {images})")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way (default: 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"{name}.json")
    return parser.parse_args()


def compare(what: str, ways: dict[str, Callable[[], object]], goal: float, rounds: int, out: Path) -> None:
    """Time two ways once a round, in turn, so that a busy machine slows both; write their ratio, first over second."""
    load = [round(v, 1) for v in os.getloadavg()]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if round_:  # the first one warms up, and answers the probes for the fastest precision
                seconds[name].append(time.perf_counter() - start)
    ours, other = (statistics.median(rows) for rows in seconds.values())
    result = {
        "what": what,
        "seconds": {name: round(statistics.median(rows), 3) for name, rows in seconds.items()},
        "ratio": {" / ".join(ways): round(ours / other, 3)},
        "goal": goal,
        "met": ours / other < goal,
        "rounds": rounds,
        "environment": {
            "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "load": load,
        },
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
