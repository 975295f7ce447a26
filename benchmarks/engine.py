"""What does the engine cost a stage, in this process and through the store, where the work itself is nothing?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distrust.data import ImageSet
from distrust.measurement import Backdoor
from distrust.models import model
from distrust.study import make_plan, run
from distrust.study.graph import Plan, Stage, digest
from distrust.study.spec import study_from
from distrust.study.steps import STEPS, Step, opened
from distrust.study.store import Store

from .measure import Row, Scale, number, ratio

GOAL = 5.0  # milliseconds a stage
CHILDREN = 8  # of every stage in a tree


def rows(scale: Scale) -> Iterator[Row]:
    """A tree of numbers, and a study's stages with their images and models read and stored; each small and large."""
    opened("digits", size=8)
    sizes = scale.of((1000, 10000), (200, 2000), (10, 100))
    seeds = scale.of((2, 20), (1, 10), (1, 2))  # of the study: about 1,000 and 10,000 stages
    for what, plans in (("a number", [tree(n) for n in sizes]), ("a study's", [grid(n, scale) for n in seeds])):
        cost: dict[str, list[float]] = {name: [] for name in ("large", "small", "resumed")}
        for _ in range(scale.rounds(2)):
            cost["small"].append(per_stage(plans[0])[0])
            for name, milliseconds in zip(("large", "resumed"), per_stage(plans[1]), strict=True):
                cost[name].append(milliseconds)
        few, many = (f"{what}, {len(plan.stages):,} stages" for plan in plans)
        yield number(many, "first run", cost["large"], GOAL, "ms a stage")
        yield number(few, "first run", cost["small"], GOAL, "ms a stage")
        yield number(many, "resumed", cost["resumed"], None, "ms a stage")
        yield ratio(many, "large", "small", cost, 0.9, note="1 is linear")


def per_stage(plan: Plan) -> tuple[float, float]:
    """Milliseconds a stage: of a first run, and of one that finds all of them."""
    seconds = []
    with idle(), tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            start = time.perf_counter()
            outcome = run(plan, Store(folder))
            seconds.append(time.perf_counter() - start)
            assert not outcome.failed, next(r["error"] for r in outcome.records.values() if r["state"] == "failed")
            assert outcome.ran + outcome.cached == len(plan.stages), outcome
    return 1000 * seconds[0] / len(plan.stages), 1000 * seconds[1] / len(plan.stages)


def tree(count: int) -> Plan:
    """So many stages that each read a number and store one."""
    stages: list[Stage] = []
    for i in range(count):
        inputs = {"before": stages[(i - 1) // CHILDREN]} if i else {}
        call = {"method": "nothing", "version": "1", "options": {"number": i}}
        key = digest([call, [source.key for source in inputs.values()]])[:32]
        stages.append(Stage("nothing", call, inputs, 0, (), True, key, f"nothing {i}"))
    return Plan(study_from({"name": "nothing"}), [], {stage.key: stage for stage in stages})


def grid(seeds: int, scale: Scale) -> Plan:
    """Rates × temperatures × seeds with their controls: teachers, students, predictions."""
    rates, temperatures = scale.of((10, 10), (10, 10), (2, 2))
    return make_plan(
        study_from(
            {
                "name": "idle",
                "seeds": seeds,
                "images": "digits",
                "teacher": "wrn10-1",
                "budget": "one",
                "attack": f"badnets[rate=[{','.join(f'0.0{i}' for i in range(rates))}]]",
                "distiller": f"kd[temperature=[{','.join(map(str, range(1, temperatures + 1)))}]]",
                "budgets": {"one": {"size": 8, "train": 1000, "test": 100}},
            }  # fmt: skip
        )
    )


@contextmanager
def idle() -> Iterator[None]:
    """Steps take their products and return at once what they should make."""
    done = model("wrn10-1", classes=10, channels=1, size=8)
    steps: dict[str, Callable[..., Any]] = {
        "nothing": nothing, "teacher": taught(done), "student": distilled(done), "predict": said,
    }  # fmt: skip
    before = {name: STEPS[name] for name in steps if name in STEPS}
    STEPS.update({name: Step(call, lambda options, n: 0.0, 1) for name, call in steps.items()})
    try:
        yield
    finally:
        del STEPS["nothing"]
        STEPS.update(before)


def nothing(before: dict[str, Tensor] | None = None, *, number: int) -> dict[str, Tensor]:
    """The number of a stage and of the one before it."""
    return {"number": torch.tensor([number, int(before["number"][0]) if before else 0])}


def taught(done: nn.Module) -> Callable[..., nn.Module]:
    def teacher(train: ImageSet, *, network: str, training: Any) -> nn.Module:
        return done

    return teacher


def distilled(done: nn.Module) -> Callable[..., nn.Module]:
    def student(model: nn.Module, transfer: ImageSet, *, network: str, loss: Any, training: Any) -> nn.Module:
        return done

    return student


def said(model: nn.Module, test: ImageSet, backdoor: Backdoor | None = None) -> dict[str, Tensor]:
    y = test.hard.to(torch.uint8)
    return {"y": y, "said": y.clone()}
