"""Protocol: what makes a table of defences fair, and which of its cells break it, told from the study alone."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import DistrustError
from ..registry import registry
from ..selectors import Selector, parse_one
from .calls import call_of
from .estimate import size_of
from .graph import PlannedCell
from .pipeline import Planner
from .plan import axes_of
from .spec import Study
from .words import NONE, placed

FACTOR = 1.5  # times finetune's optimiser steps, or a part of them, from which on a cell has to say why
FAIR = re.compile(r"(paper|code|validation)\b.*")  # origins of a threshold, level or rate
COUNTS = ("epochs", "steps", "rounds", "iterations")  # how the names of options end that say how long it trains
BATCH = 64  # of a method that does not say
USUAL = 2500  # clean images, where the images are not at hand


def breaches(study: Study, cells: Iterable[PlannedCell]) -> dict[str, list[str]]:
    """Of a study with `protocol = true`, the ids of cells whose defence breaks it, and how; of any other, nothing."""
    judge = _Judge(study) if study.protocol else None
    return {cell.id: found for cell in cells if judge and (found := list(judge.breaches(cell)))}


class _Judge:
    """Knows the rivals of every cell, planned or not: they differ from it in the defence alone."""

    def __init__(self, study: Study) -> None:
        self.study, self.planner = study, Planner(study)
        self.rivals: dict[Any, list[Selector]] = defaultdict(list)
        for chosen, _ in study.combinations():
            if chosen["defense"] != NONE:
                self.rivals[_group(axes_of(chosen))].append(chosen["defense"])
        self.options = functools.cache(self._options)

    def breaches(self, cell: PlannedCell) -> Iterator[str]:
        """What its defence breaks, a sentence each."""
        selector = parse_one(cell.axes.get("defense", "none"))
        if selector != NONE:
            yield from self.values(selector)
            if cell.cleans == "classifier":
                yield from self.images(selector, cell)
                yield from self.steps(selector, cell)

    def values(self, selector: Selector) -> Iterator[str]:
        """Thresholds, levels and rates, which are the options that are no whole numbers, that nobody vouches for."""
        method = registry.get("defenses", selector.name)
        usual = call_of(method, {})["options"]
        for name, value in self.options(selector.text).items():
            default = usual.get(name, method.options[name].default)
            listed = value if isinstance(value, list) else [value]
            fair = name in selector.tuned or FAIR.fullmatch(self.study.origin.get(f"{selector.name}.{name}", ""))
            if value != default and not fair and any(isinstance(one, float) for one in listed):
                yield f"{name}={value} is not the default ({default}), nor tuned, nor from paper, code or validation"

    def images(self, selector: Selector, cell: PlannedCell) -> Iterator[str]:
        """Another share of clean images than the budget's, which not every rival gets too."""
        given, rivals = self.share(selector), self.rivals[_group(cell.axes)]
        without = {r.name for r in rivals} - {r.name for r in rivals if self.share(r) == given}
        if given != self.study.budgets[self.study.budget].clean and without:
            what = f"images of {given}" if isinstance(given, str) else f"a share of {given:g} of the training images"
            yield f"it gets {what}, and no {', '.join(sorted(without))} does"

    def steps(self, selector: Selector, cell: PlannedCell) -> Iterator[str]:
        """More, or fewer, optimiser steps than fine-tuning on as many images, without a word on it."""
        stage, n = [s for s in cell.final if s.kind in ("defense", "choose")][-1], USUAL
        with contextlib.suppress(DistrustError):
            n = size_of(stage.inputs.get("candidate0", stage)) or USUAL
        rivals = self.rivals[_group(cell.axes)]
        theirs = [self.count(r, n) for r in rivals if r.name == "finetune" and self.share(r) == self.share(selector)]
        ours, names = self.count(selector, n), self.options(selector.text)
        said = any(f"{selector.name}.{name}" in self.study.origin for name in names if _counts(name))
        if ours and theirs and not said and all(max(ours / t, t / ours) > FACTOR for t in theirs):
            apart = f"more than {FACTOR:g} times apart, and no origin says why"
            yield f"its {ours} optimiser steps and finetune's {theirs[0]} are {apart}"
        if ours and not theirs:
            yield "no finetune stands beside it on as many images"

    def count(self, selector: Selector, n: int) -> int:
        """Optimiser steps on n images; 0 if it trains nothing."""
        options, method = self.options(selector.text), registry.get("defenses", selector.name)
        lasts = {name: value for name, value in options.items() if name.endswith(COUNTS)}
        epochs = sum(value for name, value in lasts.items() if name.endswith("epochs"))
        batch = options.get("batch_size")
        if batch and any(name.endswith("epochs") for name in lasts):
            return epochs * max(n // batch, 1)  # the short last batch is left out
        return math.ceil(method.cost(options, n) / (batch or BATCH)) if lasts else 0

    def share(self, selector: Selector) -> Any:
        """Of the training split, what it cleans with."""
        own = "clean" in registry.get("defenses", selector.name).options
        usual = self.study.budgets[self.study.budget].clean
        return usual if own else selector.options.get("clean", usual)

    def _options(self, text: str) -> dict[str, Any]:
        """All that it is called with; of tuned options the first candidate."""
        selector = parse_one(text)
        method = registry.get("defenses", selector.name)
        selector = placed(selector.fixed(**{name: values[0] for name, values in selector.tuned.items()}), method)
        bare = selector if "clean" in method.options else selector.without("clean")
        return self.planner.call("defenses", bare)["options"]


def _counts(name: str) -> bool:
    return name == "batch_size" or name.endswith(COUNTS)


def _group(axes: dict[str, str]) -> tuple[Any, ...]:
    return tuple(entry for entry in axes.items() if entry[0] != "defense")
