"""What do two workers gain on a study of equal trainings, beside one with one core and one with two?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch

from distrust.study import make_plan, run
from distrust.study.graph import Plan
from distrust.study.spec import study_from
from distrust.study.store import Store

from .measure import Row, Scale, ratio, timed

GOAL = 1 / 0.6  # two workers on two cores take at most 0.6 of the time of one on one


def rows(scale: Scale) -> Iterator[Row]:
    """So many WRN-16-1, each trained alike from another seed; with the start of processes and what is stored."""
    count, epochs = scale.of((8, 5), (6, 4), (2, 1))
    plan = trainings(
        count, epochs, scale.of("wrn16-1", "wrn16-1", "wrn10-1"), *scale.of((32, 1200), (32, 1200), (8, 100))
    )
    cores = torch.get_num_threads()
    ways = {
        "two workers": lambda: carried_out(plan, cores, jobs=2),
        "one worker, one core": lambda: carried_out(plan, 1, jobs=1),
        "one worker, two cores": lambda: carried_out(plan, 2, jobs=1),
    }
    seconds = timed(ways, scale.rounds(2))
    ours, *others = ways
    for other, goal in zip(others, (GOAL, None), strict=True):
        yield ratio(f"{count} trainings of WRN-16-1", ours, other, seconds, goal, note="with the start of processes")


def carried_out(plan: Plan, threads: int, jobs: int) -> None:
    """All of it, in a new store; in this process with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(plan, Store(folder), jobs=jobs)
    finally:
        torch.set_num_threads(before)
    assert not outcome.failed and outcome.ran == len(plan.stages), outcome


def trainings(count: int, epochs: int, network: str, size: int, train: int) -> Plan:
    """A study of teachers alone."""
    teacher = {"epochs": epochs, "augment": {"flip": False}}
    budget = {"size": size, "train": train, "test": 100, "teacher": teacher}
    study = {
        "name": "workers", "seeds": count, "images": "digits", "teacher": network, "attack": "none", "budget": "one",
        "budgets": {"one": budget},
    }  # fmt: skip
    return make_plan(study_from(study))
