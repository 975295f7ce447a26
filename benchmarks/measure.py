"""How everything here is measured: ways in turn, paired within a round; median, range and goal; a row of the table."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

import distrust as dt
from distrust.flags import Flag

T = TypeVar("T")
Ways = Mapping[str, Callable[[], object]]
UNITS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")  # of a processor, the fastest for a network first


@dataclass(frozen=True)
class Scale:
    """How much is measured: "usual", "quick" (minutes) or "tiny" (does it run?); how often; where networks run."""

    name: Literal["usual", "quick", "tiny"] = "usual"
    repeats: int | None = None
    device: str = "cpu"
    whole: bool = False  # peers' tables cell by cell, too

    def of(self, usual: T, quick: T, tiny: T) -> T:
        """One of three values."""
        return {"usual": usual, "quick": quick, "tiny": tiny}[self.name]

    def rounds(self, usual: int) -> int:
        """How often each way is measured: what was asked for, else so often."""
        return self.repeats or self.of(usual, min(usual, 2), 1)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: is done by both.
        ours: how it is called.
        other: beside what; "" of a number that stands alone.
        median: over rounds: in "×", how many times as fast ours is as the other; else seconds or so a call.
        range: the least and the most.
        goal: the least in "×", else the most; None where nothing was promised.
        unit: "×", or what the number counts.
        rounds: measurements of each way.
        seconds: their medians, by way.
        note: how the number came about, where that is not plain.
    """

    what: str
    ours: str
    other: str
    median: float
    range: tuple[float, float]
    goal: float | None
    unit: str
    rounds: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.unit == "×" else self.median <= self.goal

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "met": self.met}

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        low, high = (f"{value:.3g}" for value in self.range)
        sign = "≥" if self.unit == "×" else "≤"
        return (
            self.what, f"{self.ours} / {self.other}" if self.other else self.ours, f"{self.median:.3g} {self.unit}",
            f"{low} to {high}", "" if self.goal is None else f"{sign} {self.goal:g}",
            {True: "yes", False: "NO", None: ""}[self.met], f"{self.rounds}", self.note,
        )  # fmt: skip


COLUMNS = ("what", "ours / other", "median", "range", "goal", "met", "rounds", "note")


def timed(ways: Ways, rounds: int, *, device: str = "cpu", warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each way, once a round, in turn, so that a busy machine slows them all; every second round backwards.

    With `warm`, a first round is not counted: it fills caches and answers the probe for the fastest precision.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(-warm, rounds):
        for name in list(ways) if round_ % 2 == 0 else reversed(list(ways)):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Flag)
                ways[name]()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            if round_ >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(
    what: str, ours: str, other: str, seconds: Mapping[str, list[float]], goal: float | None = None, note: str = ""
) -> Row:
    """How many times as fast `ours` is as `other`: the other's seconds over ours, paired within each round."""
    pairs = [theirs / own for own, theirs in zip(seconds[ours], seconds[other], strict=True)]
    medians = {name: round(statistics.median(seconds[name]), 4) for name in (ours, other)}
    return _row(what, ours, other, pairs, goal, "×", medians, note)


def number(what: str, ours: str, values: list[float], goal: float | None, unit: str = "s", note: str = "") -> Row:
    """A number that stands alone; less is better."""
    return _row(what, ours, "", values, goal, unit, {}, note)


def _row(
    what: str, ours: str, other: str, values: list[float], goal: float | None, unit: str, medians: dict[str, float],
    note: str,
) -> Row:  # fmt: skip
    middle, least, most = (float(f"{f(values):.4g}") for f in (statistics.median, min, max))
    return Row(what, ours, other, middle, (least, most), goal, unit, len(values), medians, note)


def compare(what: str, ways: Ways, goals: Mapping[str, float], rounds: int, *, device: str = "cpu") -> Iterable[Row]:
    """The first way beside each of the others."""
    seconds = timed(ways, rounds, device=device)
    ours, *others = ways
    return [ratio(what, ours, other, seconds, goals.get(other)) for other in others]


def environment(device: str = "cpu") -> dict[str, Any]:
    """Where this is measured; a load near the number of cores means that something else is running."""
    return {
        "device": _device(device), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "unit": _unit(), "load": [round(v, 1) for v in os.getloadavg()], "torch": torch.__version__,
        "python": platform.python_version(), "distrust": dt.__version__,
    }  # fmt: skip


def machine(device: str = "cpu") -> str:
    """The folder of a machine's results: its processor, its cores and the unit that they compute with; or its GPU."""
    name = _device(device)
    if not device.startswith("cuda"):
        name += f" {_unit()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)|@.*?Hz", "", name).lower()).strip("-")


def _device(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return _processor().get("model name", platform.machine())


def _unit() -> str:
    """The unit for vectors or tiles; processors of one name differ in it, and by a factor of two in speed."""
    info = _processor()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return next((unit.partition("_")[0] for unit in UNITS if unit in flags), "plain")


def _processor() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().partition("\n\n")[0].splitlines() if info.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
