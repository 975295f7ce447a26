"""What does the engine cost a stage, in this process, in two and on Ray, where the work itself is nothing?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distrust.data import ImageSet
from distrust.measurement import Backdoor
from distrust.models import model
from distrust.registry import registry
from distrust.study import make_plan, run
from distrust.study.cluster import Cluster
from distrust.study.graph import Plan, Stage, digest
from distrust.study.spec import study_from
from distrust.study.steps import STEPS, Step, opened
from distrust.study.store import Store

from . import nothing
from .measure import Row, Scale, number, ratio

GOAL = 5.0  # milliseconds a stage
WAYS: dict[str, tuple[float, dict[str, Any]]] = {  # how else a tree is carried out: its goal, and what `run` is asked
    "two processes": (20.0, {"jobs": 2}), "Ray": (30.0, {"jobs": 2, "cluster": Cluster()}),
}  # fmt: skip
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
    trees = [tree(n) for n in sizes]
    for way, (goal, asked) in scale.of(WAYS, WAYS, {}).items():
        cost = {"small": [], "large": []}
        for _ in range(scale.rounds(1)):
            for size, plan in zip(cost, trees, strict=True):
                cost[size].append(per_stage(plan, **asked)[0])
        few, many = (f"a number, {len(plan.stages):,} stages" for plan in trees)
        yield number(many, f"first run, {way}", cost["large"], goal, "ms a stage", note="with the start of processes")
        yield number(few, f"first run, {way}", cost["small"], None, "ms a stage", note="with the start of processes")
        yield ratio(many, "large", "small", cost, 0.9, note=f"{way}; 1 is linear")


def per_stage(plan: Plan, **asked: Any) -> tuple[float, float]:
    """Milliseconds a stage: of a first run, and of one that finds all of them."""
    seconds = []
    with idle(), tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            start = time.perf_counter()
            outcome = run(plan, Store(folder), **asked)
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
    steps: dict[str, Callable[..., Any]] = {"teacher": taught(done), "student": distilled(done), "predict": said}
    before = {name: STEPS[name] for name in steps}
    registry.add(nothing.__file__)
    STEPS.update({name: Step(call, lambda options, n: 0.0, 1) for name, call in steps.items()})
    try:
        yield
    finally:
        del STEPS["nothing"], registry._kinds["defenses"]["nothing"]
        registry.files.pop()
        STEPS.update(before)


def taught(done: nn.Module) -> Callable[..., nn.Module]:
    def teacher(train: ImageSet, *, network: str, training: Any) -> nn.Module:
        return done

    return teacher


def distilled(done: nn.Module) -> Callable[..., nn.Module]:
    def student(model: nn.Module, transfer: ImageSet, *, network: str, loss: Any, training: Any) -> nn.Module:
        return done

    return student


def said(model: nn.Module, test: ImageSet, backdoor: Backdoor | None = None) -> dict[str, torch.Tensor]:
    y = test.hard.to(torch.uint8)
    return {"y": y, "said": y.clone()}
