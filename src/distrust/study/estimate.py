"""Estimate: what a plan will cost on this machine, from its methods' declared costs and from how fast stages were."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from ..data import ImageSet
from ..errors import DistrustError, StoreError
from ..files import cache_directory, write_file
from ..training.fastest import processor
from .executors import cores
from .graph import Stage
from .records import Record
from .steps import STEPS, opened

MEMORY = 3600.0  # seconds of work that are remembered of a network: a newer hour has the word


class Estimate(NamedTuple):
    """What stages will cost.

    Args:
        images: that go through a training step.
        seconds: that the stages will take whose networks ran on this machine before.
        unknown: the other networks, in the order of the stages.
    """

    images: float
    seconds: float
    unknown: tuple[str, ...]


class Speed:
    """How fast networks are trained on this machine, from the stages that it finished; kept in the cache directory.

    Args:
        device: torch device of the work.
        jobs: stages at a time, that share the device.
    """

    def __init__(self, device: str, jobs: int) -> None:
        self.file = cache_directory() / "speed.json"
        what = hashlib.sha256(processor(torch.device(device)).encode()).hexdigest()[:8]
        self.machine, self.jobs = f"{device} {what}, {cores()} cores", jobs
        self.heard: dict[str, tuple[float, float]] = {}  # what → images, seconds of the machine
        self.known: dict[str, tuple[float, float]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # nothing there, or nothing of ours
            kept = json.loads(self.file.read_text())
            self.known = {what: (float(images), float(seconds)) for what, (images, seconds) in kept.items()}

    def estimate(self, stages: Iterable[Stage], weights: Mapping[str, float] = MappingProxyType({})) -> Estimate:
        """What these stages cost; nothing is trained for it.

        Args:
            stages: that have to run.
            weights: key → for how many a stage stands (default: for itself).
        """
        total, seconds, unknown = 0.0, 0.0, dict[str, None]()
        for stage in stages:
            images = cost_of(stage, size_of(stage)) * weights.get(stage.key, 1)
            total += images
            if images and (rate := self.known.get(self._what(stage))):
                seconds += images / rate[0] * rate[1]
            elif images:
                unknown[_network(stage)] = None
        return Estimate(total, seconds, tuple(unknown))

    def hear(self, stage: Stage, record: Record) -> None:
        """Learn from a stage that was just done."""
        with contextlib.suppress(DistrustError):  # images that are gone since
            cost, what = cost_of(stage, size_of(stage)), self._what(stage)
            if cost and record["seconds"]:
                images, seconds = self.heard.get(what, (0.0, 0.0))
                self.heard[what] = images + cost, seconds + record["seconds"] / self.jobs

    def keep(self) -> None:
        """Write down what was heard, for the next estimate."""
        for what, (images, seconds) in self.heard.items():
            before, took = self.known.get(what, (0.0, 0.0))
            share = min(1.0, MEMORY / took) if took else 0.0
            self.known[what] = images + share * before, seconds + share * took
        if self.heard:
            self.heard = {}
            with contextlib.suppress(StoreError):  # a run is not lost for an estimate
                write_file(self.file, json.dumps(self.known, indent=1).encode())

    def _what(self, stage: Stage) -> str:
        shape = "x".join(map(str, _opened(_source(stage))[0].x.shape[1:]))
        return f"{_network(stage)} {shape} {self.machine}"


def cost_of(stage: Stage, n: int) -> float:
    """Images that go through a training step when a stage is given n of them."""
    options = stage.call["options"]
    if ":" in stage.call["method"]:  # made for a metric: what it searches, it searches on all that it is given
        return float(n * sum(value for name, value in options.items() if name.endswith(("epochs", "steps"))))
    method = stage.method
    return method.cost(options, n) if method else STEPS[stage.call["method"]].cost(options, n)


def share_of(stage: Stage) -> float:
    """Its share of the work of a run, in whatever unit; what trains nothing is not for nothing."""
    return max(cost_of(stage, 1), 0.1)


@functools.cache
def size_of(stage: Stage) -> int:
    """How many images a stage is given: of the first of its inputs that is a set."""
    return next((_made(s) for name, s in stage.inputs.items() if name != "backdoor" and _made(s)), 0)


def _made(stage: Stage) -> int:
    """How many images a stage makes; 0 if it makes a model."""
    options = stage.call["options"]
    if stage.kind == "images":
        train, test = _opened(stage)
        held, validation = options.get("held", 0), options.get("validation", 0)
        share = {"train": 1 - held - validation, "clean": options.get("share"), "validation": validation}
        n = len(test) if options["role"] == "test" else round(len(train) * (share[options["role"]] or 0))
        return min(n, options.get("most") or n)
    if "images_per_class" in options:
        return options["images_per_class"] * len(_opened(_source(stage))[0].classes)
    return size_of(stage) if stage.kind in ("plant", "poison", "sift") else 0


def _opened(stage: Stage) -> tuple[ImageSet, ImageSet]:
    options = stage.call["options"]
    return opened(options["source"], **{k: options[k] for k in ("size", "channels", "group") if options.get(k)})


def _source(stage: Stage) -> Stage:
    return next(s for s in stage.lineage() if s.kind == "images")


def _network(stage: Stage) -> str:
    """Whose steps a stage takes: its own network's, or that of the model that it is given."""
    named = (s.call["options"].get("network") for s in reversed([*stage.lineage()]))
    return next(filter(None, named), "convnet3")
