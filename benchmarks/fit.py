"""How fast is `fit`? Beside the bare training step, and beside a plain DataLoader loop.

python benchmarks/fit.py [--images N] [--rounds R] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import distrust as dt
from distrust.training.fastest import fastest

BATCH = 128
GOALS = {"fit / bare step": 0.90, "fit / plain loop, 0 workers": 2.0, "fit / plain loop, 2 workers": 2.0}
SOLVER = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}


def main() -> None:
    """Measure every way once a round, in turn, so that a busy machine slows them all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=5120, help="images of one measurement (default: 5120)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way (default: 5)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fit.json")
    asked = parser.parse_args()
    if asked.images < 4 * BATCH:
        parser.error(f"--images {asked.images}: give at least {4 * BATCH}, or `fit` does not probe for the fastest way")

    where = environment()
    train, source = open_images(asked.images)
    model = dt.model("wrn16-1", train)
    way = fastest(model, train, dt.Training(batch_size=BATCH), torch.device("cpu"))
    ways = {
        "fit": lambda: dt.fit(model, train, epochs=1, batch_size=BATCH),
        "bare step": bare_step(model, train, *way),
        "plain loop, 0 workers": plain_loop(model, train, workers=0),
        "plain loop, 2 workers": plain_loop(model, train, workers=2),
    }
    seen = len(train) // BATCH * BATCH
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(asked.rounds + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if round_:  # the first one warms up
                speeds[name].append(seen / (time.perf_counter() - start))

    ratios = {
        f"fit / {name}": [a / b for a, b in zip(speeds["fit"], rows, strict=True)] for name, rows in speeds.items()
    }
    result = {
        "what": f"images/s of training wrn16-1 on {source}, batch {BATCH}, one epoch of {len(train)}",
        "images_per_second": {name: round(statistics.median(rows), 1) for name, rows in speeds.items()},
        "ratio": {
            name: {
                "median": round(statistics.median(ratios[name]), 3),
                "range": [round(min(ratios[name]), 3), round(max(ratios[name]), 3)],
                "goal": goal,
                "met": statistics.median(ratios[name]) >= goal,
            }
            for name, goal in GOALS.items()
        },
        "rounds": asked.rounds,
        "precision, memory format": list(way),
        "environment": where,
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    print(text)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text + "\n")


def open_images(count: int) -> tuple[dt.ImageSet, str]:
    """CIFAR-10 where DISTRUST_DATA has it, else noise of its size."""
    if (Path(os.environ.get("DISTRUST_DATA") or "/nowhere") / "cifar10").exists():
        return dt.images("cifar10")[0][:count], "CIFAR-10"
    source = dt.rng("benchmark")
    x = torch.randint(256, (count, 3, 32, 32), generator=source, dtype=torch.uint8)
    y = torch.randint(10, (count,), generator=source)
    return dt.ImageSet(x, y, tuple("0123456789")), "noise 3×32×32"


def bare_step(model: nn.Module, train: dt.ImageSet, precision: str, memory_format: str) -> Callable[[], None]:
    """Forward, backward and step on one batch that is in place: what no loop can beat."""
    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    model = copy.deepcopy(model).to(memory_format=layout).train()
    solver = torch.optim.SGD(model.parameters(), fused=True, **SOLVER)
    x, y = train.pixels(slice(0, BATCH)).contiguous(memory_format=layout), train.y[:BATCH]

    def run() -> None:
        for _ in range(len(train) // BATCH):
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                loss = F.cross_entropy(model(x).float(), y)
            solver.zero_grad()
            loss.backward()
            solver.step()

    return run


class Pictures(Dataset):
    """One image at a time, padded, cropped and mirrored by Pillow, as most training scripts do."""

    def __init__(self, images: dt.ImageSet) -> None:
        self.pixels, self.labels = images.x.permute(0, 2, 3, 1).contiguous().numpy(), images.y.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self.pixels[row])
        padded = Image.new("RGB", (40, 40))
        padded.paste(picture, (4, 4))
        left, top = random.randrange(9), random.randrange(9)
        picture = padded.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return pixels.view(32, 32, 3).permute(2, 0, 1).contiguous().float().div(255), self.labels[row]


def plain_loop(model: nn.Module, train: dt.ImageSet, workers: int) -> Callable[[], None]:
    """float32, contiguous, a DataLoader; the workers stay from epoch to epoch."""
    model = copy.deepcopy(model).train()
    solver = torch.optim.SGD(model.parameters(), **SOLVER)
    batches = DataLoader(
        Pictures(train),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )

    def run() -> None:
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            solver.zero_grad()
            loss.backward()
            solver.step()

    return run


def environment() -> dict[str, object]:
    """Where this is measured; a load near the number of cores means that something else is running."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {
        "distrust": dt.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": next(
            (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
        ),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(v, 1) for v in os.getloadavg()],
    }


if __name__ == "__main__":
    main()
