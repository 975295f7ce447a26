"""Small studies, for tests alone: digits at 8×8, WRN-10-1, one epoch; and a method of a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from distrust.study import Plan, Stage, Study, make_plan
from distrust.study.spec import study_from

BUDGET: dict[str, Any] = {"train": 64, "test": 40, "size": 8, "teacher": {"epochs": 1}, "student": {"epochs": 1}}

DEFENCE = '''
from torch import Generator, nn
from distrust.data import ImageSet
from distrust.marks import Count, defense

@defense(paper="none")
def mine(model: nn.Module, clean: ImageSet, *, epochs: Count = 1, rng: Generator | None = None) -> nn.Module:
    """Return the model.

    Args:
        epochs: none.
    """
    return model
'''


def study(**changes: Any) -> Study:
    """The usual study with other entries."""
    content = {"name": "trial", "teacher": ["wrn10-1"], "budgets": {"cpu": BUDGET}, "budget": "cpu"}
    return study_from(content | changes)


def plan(**changes: Any) -> Plan:
    """Its plan."""
    return make_plan(study(**changes))


def keys(kind: str | None = None, **changes: Any) -> set[str]:
    """Keys of its stages, of one kind or of all."""
    return {stage.key for stage in of_kind(plan(**changes), kind)}


def of_kind(made: Plan, *kinds: str | None) -> Iterator[Stage]:
    """The stages of a plan that are of these kinds, in its order; None is all of them."""
    return (stage for stage in made.stages.values() if None in kinds or stage.kind in kinds)


def options(stage: Stage) -> dict[str, Any]:
    """Of what it calls."""
    return stage.call["options"]


def two_classes(folder: Path) -> Path:
    """A set of pictures in folders: 24 of "left" and of "right" in either split, 8×8 and grey."""
    for split in ("train", "test"):
        for name in ("left", "right"):
            (folder / split / name).mkdir(parents=True)
            for i in range(24):
                Image.new("L", (8, 8), 9 * i + (name == "left")).save(folder / split / name / f"{i}.png")
    return folder
