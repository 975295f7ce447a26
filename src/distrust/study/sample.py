"""Sample: cells that stand for a study that is too large to be planned at once, and how much each stage stands for."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import NamedTuple

from ..selectors import Selector
from .graph import Env, Plan, PlannedCell, Stage, collect
from .pipeline import Chosen
from .plan import Grid

MOST = 2000  # cells in a sample, as long as every axis keeps two entries

Taken = dict[int, float]  # place of an entry on its axis → for how many entries it stands


class Sample(NamedTuple):
    """Cells that stand for a study.

    Args:
        plan: of them.
        weights: key → how many of the study's stages a stage stands for; one that is not named stands for itself.
    """

    plan: Plan
    weights: Mapping[str, float]

    def count(self, stages: Iterable[Stage]) -> int:
        """How many of the study's stages these stand for."""
        return round(sum(self.weights.get(stage.key, 1.0) for stage in stages))


class _Places:
    """Where something stands in a block of a study: which entries of each axis, and which seeds.

    Args:
        taken: of each axis, the entries that the sample has, and for how many each of them stands.
    """

    def __init__(self, taken: list[Taken]) -> None:
        self.taken = taken
        self.found: list[set[int]] = [set() for _ in taken]

    def add(self, at: Iterable[int]) -> None:
        """It stands there too."""
        for found, place in zip(self.found, at, strict=True):
            found.add(place)

    @property
    def weight(self) -> float:
        """What is the same for all that were taken of an axis stands for itself; else, for those left out as well."""
        axes = zip(self.taken, self.found, strict=True)
        return math.prod(fmean(taken[at] for at in found) if len(found) < len(taken) else 1.0 for taken, found in axes)


def sample(grid: Grid, most: int = MOST) -> Sample:
    """All cells of a grid or, if it is large, those of every axis thinned out, which share stages as all of them do.

    Raises:
        NotFound, BadInput: as `make_plan`.
    """
    if not grid.large:
        return Sample(grid.checked, {})
    cells: dict[str, PlannedCell] = {}
    where: defaultdict[str, dict[int, _Places]] = defaultdict(dict)  # cell or stage → block → its places
    for block, (seeds, products) in enumerate(grid.study.products()):
        longest = [max((axes[axis] for axes in products), key=len) for axis in products[0]]
        names = [[entry.name for entry in entries] for entries in longest]
        taken = _thinned([[""] * len(products), *names, [""] * seeds], most // len(grid.study.grid or [None]))
        for at, chosen in _some(grid, products, taken):
            for seed in taken[-1]:
                cell = grid.cell(chosen, grid.first_seed + seed)
                if not cell.id.startswith(grid.only):
                    continue
                cells.setdefault(cell.id, cell)
                needed: Env = {}
                collect(cell.needed, needed)
                for name in (cell.id, *(key for key, stage in needed.items() if stage.kept)):
                    where[name].setdefault(block, _Places(taken)).add((*at, seed))
    if not cells:  # what was asked for lies between them
        some = list(itertools.islice(((c, s) for c, _, seeds in grid.chosen() for s in seeds), most))
        plan = grid.plan(grid.cell(*one) for one in some)
        return Sample(plan, dict.fromkeys(plan.stages, grid.cells / len(some)))
    weights = {name: max(places.weight for places in found.values()) for name, found in where.items()}
    right = grid.cells / sum(weights[name] for name in cells)  # 1 where the study is a product of axes
    plan = grid.plan(cells.values())
    return Sample(plan, {key: weights[key] * right for key in plan.stages})


def _thinned(axes: list[list[str]], most: int) -> list[Taken]:
    """Entries of each axis, by their names: some of every name or, where that is too much, some beside "none".

    At least two are taken, at even distances; each stands for others of its name.
    """
    kept = list(map(len, axes))
    while math.prod(kept) > most:
        least = [min(max(len({*names}), 2), len(names)) for names in axes]
        longest = max(range(len(axes)), key=lambda at: kept[at] - least[at])
        varied = max(range(len(axes)), key=lambda at: least[at])
        if kept[longest] > least[longest]:
            kept[longest] = max((kept[longest] + 1) // 2, least[longest])
        elif least[varied] > 2:
            axes = [*axes[:varied], [name if name == "none" else "other" for name in axes[varied]], *axes[varied + 1 :]]
        else:
            break
    return [_taken(names, n) for names, n in zip(axes, kept, strict=True)]


def _taken(names: list[str], n: int) -> Taken:
    places = {name: [at for at, other in enumerate(names) if other == name] for name in names}
    few = dict.fromkeys(places, 1)
    while sum(few.values()) < n:
        few[max(few, key=lambda name: len(places[name]) / few[name])] += 1
    share = {name: len(own) / few[name] for name, own in places.items()}
    at = (own[i * len(own) // few[name]] for name, own in places.items() for i in range(few[name]))
    return {place: share[names[place]] for place in sorted(at)}


def _some(
    grid: Grid, products: list[dict[str, list[Selector]]], taken: list[Taken]
) -> Iterator[tuple[tuple[int, ...], Chosen]]:
    """The combinations of such places, and the places."""
    for first in taken[0]:
        axes = products[first]
        there = [[at for at in places if at < len(axes[axis])] for axis, places in zip(axes, taken[1:-1], strict=True)]
        few = {axis: [axes[axis][at] for at in places] for axis, places in zip(axes, there, strict=True)}
        for places, chosen in zip(itertools.product(*there), grid.study.entries(few), strict=True):
            yield (first, *places), chosen
