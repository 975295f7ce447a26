"""Estimate: what a plan will cost on this machine, and what a store holds."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable

from torch import nn

from ..data import ImageSet
from ..models import model as make_model
from ..training import Training, fit
from .graph import Stage
from .steps import STEPS, opened


def estimate(waiting: Iterable[Stage], jobs: int) -> float:
    """Seconds that the waiting stages will take, from a timed step of each network on this machine."""
    speed: dict[tuple[str, int], float] = {}
    total = 0.0
    for stage in waiting:
        name, images = _network(stage), _opened(next(s for s in stage.lineage() if s.kind == "images"))
        at = name, images[0].x.shape[-1]
        if at not in speed:
            speed[at] = _images_a_second(make_model(name, images[0]), images[0])
        total += cost_of(stage, size_of(stage)) / speed[at]
    return total / jobs


def cost_of(stage: Stage, n: int) -> float:
    """Images that go through a training step when a stage is given n of them."""
    options = stage.call["options"]
    if ":" in stage.call["method"]:  # made for a metric: what it searches, it searches on all that it is given
        return float(n * sum(value for name, value in options.items() if name.endswith(("epochs", "steps"))))
    method = stage.method
    return method.cost(options, n) if method else STEPS[stage.call["method"]].cost(options, n)


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
        source = next(s for s in stage.lineage() if s.kind == "images")
        return options["images_per_class"] * len(_opened(source)[0].classes)
    return size_of(stage) if stage.kind in ("plant", "poison", "sift") else 0


def _opened(stage: Stage) -> tuple[ImageSet, ImageSet]:
    options = stage.call["options"]
    return opened(options["source"], **{k: options[k] for k in ("size", "channels", "group") if options.get(k)})


def _network(stage: Stage) -> str:
    """Whose steps a stage takes: its own network's, or that of the model that it is given."""
    named = (s.call["options"].get("network") for s in reversed([*stage.lineage()]))
    return next(filter(None, named), "convnet3")


def _images_a_second(model: nn.Module, images: ImageSet, batch: int = 64, steps: int = 4) -> float:
    few = images[: batch * steps]
    training = Training(epochs=1, batch_size=batch, precision="fp32", memory_format="channels_last")
    fit(model, few[:batch], training=training)  # the first step allocates
    start = time.perf_counter()
    fit(model, few, training=training)
    return len(few) / (time.perf_counter() - start)
