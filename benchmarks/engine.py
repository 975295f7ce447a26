"""What does the engine cost a stage? Stages of nothing, in this process: a number is read, and one is stored."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distrust.study.graph import Plan, Stage, digest
from distrust.study.run import run
from distrust.study.spec import study_from
from distrust.study.steps import STEPS, Step
from distrust.study.store import Store

from .measure import Row, Scale, number, ratio

GOAL = 5.0  # milliseconds a stage
CHILDREN = 8  # of every stage: a tree, as a study's is


def rows(scale: Scale) -> Iterator[Row]:
    """A small plan and one ten times as large, in turn; then the large one again from the store."""
    few, many = scale.of((1000, 10000), (300, 3000), (10, 100))
    cost: dict[str, list[float]] = {name: [] for name in ("first run", "small plan", "resumed")}
    for _ in range(scale.rounds(2)):
        cost["small plan"].append(per_stage(few)[0])
        first, resumed = per_stage(many)
        cost["first run"].append(first)
        cost["resumed"].append(resumed)
    yield number(f"{many:,} stages", "first run", cost["first run"], GOAL, "ms a stage")
    yield number(f"{few:,} stages", "first run", cost["small plan"], GOAL, "ms a stage")
    yield number(f"{many:,} stages", "resumed", cost["resumed"], None, "ms a stage")
    yield ratio(f"a stage of {many:,}, of {few:,}", "first run", "small plan", cost, 0.9, note="1 is linear")


def per_stage(count: int) -> tuple[float, float]:
    """Milliseconds a stage: of a first run, and of one that finds all of them."""
    with plan(count) as made, tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            outcome = run(made, Store(folder))
            seconds.append(time.perf_counter() - start)
            assert not outcome.failed and outcome.ran + outcome.cached == count, outcome
    return 1000 * seconds[0] / count, 1000 * seconds[1] / count


@contextmanager
def plan(count: int) -> Iterator[Plan]:
    """A plan of so many stages of nothing, which inside can be carried out."""
    stages: list[Stage] = []
    for i in range(count):
        inputs = {"before": stages[(i - 1) // CHILDREN]} if i else {}
        call = {"method": "nothing", "version": "1", "options": {"number": i}}
        key = digest([call, [source.key for source in inputs.values()]])[:32]
        stages.append(Stage("nothing", call, inputs, 0, (), True, key, f"nothing {i}"))
    STEPS["nothing"] = Step(nothing, lambda options, n: 0.0, 1)
    try:
        yield Plan(study_from({"name": "nothing"}), [], {stage.key: stage for stage in stages})
    finally:
        del STEPS["nothing"]


def nothing(before: dict[str, Tensor] | None = None, *, number: int) -> dict[str, Tensor]:
    """The number of a stage and of the one before it."""
    return {"number": torch.tensor([number, int(before["number"][0]) if before else 0])}
