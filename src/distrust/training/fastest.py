"""Which precision and memory format is fastest here: measured once, then remembered, so that bits repeat."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import cache_directory
from .graphed import Recorded, recordable
from .options import Training

MARGIN = 1.15  # how much faster than plain float32 another way must be, so that noise does not decide
DROP = 2.0  # a way whose step takes that many times the best one's is timed no further
FEWEST, MOST, STEPS = 4, 128, 6  # images in a step (of fewer, casting the weights would decide), and steps of a way
SPEND = 3.0  # processor seconds for all ways together, after which no step is begun but the first of each
WAYS = [("fp32", "contiguous"), ("fp32", "channels_last"), ("bf16", "contiguous"), ("bf16", "channels_last")]


Step = Callable[[int], tuple[float, float]]  # images → seconds of the clock, and of the processor


def fastest(model: nn.Module, train: Any, training: Training, device: torch.device) -> tuple[str, str]:
    """Resolve "auto": a few timed steps for each way, once per architecture, image size, thread count and machine.

    The answer is kept in the cache directory, so the same seed gives the same bits in the next run too.
    """
    asked = training.precision, training.memory_format
    native = asked[0] != "auto" or _computes_bf16(device)  # elsewhere bf16 is emulated, and timing it takes minutes
    ways = [w for w in WAYS if asked[0] in ("auto", w[0]) and asked[1] in ("auto", w[1])]
    ways = [w for w in ways if native or w[0] == "fp32"]
    if len(ways) == 1:
        return ways[0]
    size = min(training.batch_size, len(train))
    if len(train) < 4 * training.batch_size or size * train.x[0].numel() < 2**14:
        return ways[0]  # a job this small is over before a probe pays
    shapes = [list(p.shape) for p in model.parameters()]
    context = [type(model).__qualname__, shapes, list(train.x.shape[1:]), ways]
    machine = [str(device), torch.get_num_threads(), torch.__version__, processor(device)]
    answer = _remembered(json.dumps([context, machine]), lambda: _measure(model, train, device, ways))
    return answer or ways[0]  # nowhere to remember: the plain way repeats everywhere


def _measure(model: nn.Module, train: Any, device: torch.device, ways: list[tuple[str, str]]) -> tuple[str, str]:
    """The way whose step is shortest, tried on as few images as tell ways apart: large networks cost no more.

    Ways are timed in turn, so that what else the machine does slows all of them; a first step, in which kernels are
    made ready, tells nothing unless no other can be afforded.
    """
    spent = 0.0
    with torch.random.fork_rng():  # dropout must not move the caller's stream
        trials = {way: _step(model, train, device, way) for way in ways}
        most = min(MOST, len(train))
        count = most if device.type == "cuda" else _enough(trials[ways[0]], most, SPEND / len(ways) / 8)
        seconds: dict[tuple[str, str], float] = {}
        for way, step in trials.items():
            seconds[way], processor = step(count)
            spent += processor
        again: dict[tuple[str, str], float] = {}
        for _ in range(STEPS):
            for way in [w for w in ways if again.get(w, 0.0) <= DROP * min(again.values(), default=math.inf)]:
                if spent < SPEND:
                    wall, processor = trials[way](count)
                    spent += processor
                    again[way] = min(again.get(way, wall), wall)
    seconds = again if len(again) == len(ways) else seconds
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[ways[0]] > MARGIN * seconds[best] else ways[0]


def _enough(step: Step, most: int, least: float) -> int:
    """How many images make a step of so many processor seconds."""
    count = min(FEWEST, most)
    while count < most and step(count)[1] < least:
        count = min(2 * count, most)
    return count


def _step(model: nn.Module, train: Any, device: torch.device, way: tuple[str, str]) -> Step:
    """A training step of a copy of `model` on the first so many images, done this way, as a loop would do it."""
    precision, memory_format = way
    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    trial = copy.deepcopy(model).to(device, memory_format=layout).train().requires_grad_(True)  # type: ignore[call-overload]
    replays = recordable(model, device)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=not replays)
    recorded: Recorded | None = None

    def passes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with cast:
            return F.cross_entropy(model(x).float(), y)

    def step(count: int) -> tuple[float, float]:
        nonlocal recorded
        x = train.pixels(slice(0, count)).to(device).contiguous(memory_format=layout)
        y = train.hard[:count].to(device)
        with torch.enable_grad():
            if replays:
                recorded = recorded or Recorded(trial, passes, x, y)
            wall, processor = time.perf_counter(), time.process_time()
            if recorded:
                recorded(x, y)
            else:
                passes(trial, x, y).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - wall, time.process_time() - processor

    return step


def _remembered(question: str, measure: Callable[[], tuple[str, str]]) -> tuple[str, str] | None:
    file = cache_directory() / "probe" / (hashlib.sha256(question.encode()).hexdigest()[:24] + ".json")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            answer = json.dumps(measure())
            with tempfile.NamedTemporaryFile("w", dir=file.parent) as draft, suppress(FileExistsError):
                draft.write(answer)
                draft.flush()
                os.link(draft.name, file)  # the first of several processes wins; the others read its answer
        precision, memory_format = json.loads(file.read_text())
        return precision, memory_format
    except (OSError, json.JSONDecodeError):
        return None


def _computes_bf16(device: torch.device) -> bool:
    """Whether a unit of the device computes in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(processor(device).split()))


@functools.cache
def processor(device: torch.device) -> str:
    """What computes there: of a CPU its name and its flags."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    try:
        info = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "|".join(line for line in info if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return torch.backends.cpu.get_cpu_capability()
