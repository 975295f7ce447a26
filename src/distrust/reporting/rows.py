"""Rows: cells that differ only in their seed, with the mean and interval of every metric and their flags."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

from ..flags import MEANING
from ..intervals import Interval
from ..intervals import over_seeds as mean_and_interval
from ..registry import registry
from ..study.axes import TABLE
from ..study.cells import Cell

Axes = Mapping[str, Any]  # a cell, or the axes of a row

NAMES = ("study", "budget", *(axis.name for axis in TABLE))
SETTING = ("study", "budget", *(axis.name for axis in TABLE if axis.setting))  # what students share, with the place
DOUBT = ("acc-floor", "chance-level", "collapsed", "control-fires", "no-control")  # such a number supports no claim
TABLED = {  # what a measurement prints nothing of, and tables show
    "untriggered", "acc_control", "caught", "lost", "poison_hits", "poison_ssim", "asr_archetypes", "base_archetypes",
}  # fmt: skip


class Column(NamedTuple):
    """A field of a cell that metrics fill, as its mark declares it."""

    key: str
    heading: str
    unit: str
    better: str
    detail: bool  # shown of a single row, and in no table


class Estimate(NamedTuple):
    """A mean over seeds, with its 95 % t-interval; of one run, its value with its own interval over images."""

    mean: float
    interval: Interval | None
    values: tuple[float, ...]  # one a seed

    @classmethod
    def of(cls, values: Sequence[float], own: Sequence[float] | None = None) -> Estimate:
        """From one value a seed; `own` is the interval over images of a single one."""
        mean, interval = mean_and_interval(values)
        if own and len(values) == 1:
            interval = own[0], own[1]
        return cls(mean, interval, tuple(values))


@dataclass(frozen=True, eq=False)
class Row:
    """One line of a table.

    Args:
        axes: study, budget and every axis of `study.axes`; "none" where the cells have none.
        place: where the attack enters.
        values: metric → estimate, of those that a finished seed has.
        seeds: those that are done; what was chosen by a seed's own test numbers is not averaged with others.
        n: the fewest triggered images of any seed.
        flags: raised by any cell; one-seed if one is done.
        state: "done" if any cell is.
        errors: of those that are not.
        cells: behind the row.
    """

    axes: dict[str, str]
    place: int | None
    values: Mapping[str, Estimate]
    seeds: list[int]
    n: int
    flags: list[str]
    state: str
    errors: list[str]
    cells: list[Cell]

    def mean(self, metric: str) -> float | None:
        """Of a metric, None where no seed has it."""
        return self.values[metric].mean if metric in self.values else None

    def record(self) -> dict[str, Any]:
        """As plain values for JSON: rates 0..1, of each metric its mean, its runs and their interval."""
        facts: dict[str, Any] = {
            **self.axes,
            "place": self.place,
            "seeds": self.seeds,
            "state": self.state,
            "n": self.n,
        }
        facts |= {"flags": self.flags, "errors": self.errors}
        return facts | {name: value._asdict() for name, value in self.values.items()}

    @property
    def setting(self) -> tuple[Any, ...]:
        """What its student shares with others."""
        return (*(self.axes[name] for name in SETTING), self.place)

    @property
    def doubted(self) -> bool:
        """A flag says that its numbers must not be believed, or each was chosen by itself."""
        chosen = "chosen-on-test" in self.flags and all(on_test(one) for one in self.cells if one["state"] == "done")
        return chosen or any(name in DOUBT for name in self.flags)


def columns() -> list[Column]:
    """Every field that a metric fills, in the order of tables; of two metrics with one field, the first."""
    found: dict[str, Column] = {}
    for name, mark in sorted(registry.marks("metrics").items(), key=lambda entry: entry[1].order):
        for key, facts in mark.columns(name).items():
            detail = not facts.unit or (mark.aside and not mark.asked and key not in TABLED)
            found.setdefault(key, Column(key, facts.heading or key, facts.unit, facts.better, detail))
    return list(found.values())


def over_seeds(cells: Sequence[Cell]) -> list[Row]:
    """Group cells by everything but the seed, in order of appearance.

    Args:
        cells: flat cells, as in `Report.cells`; only those that are done enter a mean.
    """
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell, axes in zip(cells, on_axes(cells, (*NAMES, "place")), strict=True):
        groups.setdefault(axes, []).append(cell)
    found = dict.fromkeys(column.key for column in columns() if column.unit)
    return [_row(group, found) for group in groups.values()]


def on_axes(cells: Iterable[Axes], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """What stands on these axes of each cell, None where nothing does; many cells share it."""
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for cell in cells:
        axes = tuple(map(cell.get, names))
        if axes not in known:
            known[axes] = tuple(None if entry == "none" else entry for entry in axes)
        yield known[axes]


class _Values(Mapping[str, Estimate]):
    """Means over cells, found when they are asked for: of many metrics, tables show few."""

    def __init__(self, cells: Sequence[Cell], columns: Collection[str]) -> None:
        self.cells, self.columns = cells, columns
        self.known: dict[str, Estimate | None] = {}

    def __getitem__(self, key: str) -> Estimate:
        if key not in self.known:
            some = [cell[key] for cell in self.cells if finite(cell.get(key))] if key in self.columns else []
            self.known[key] = Estimate.of(some, self.cells[0].get(f"{key}_interval")) if some else None
        if (found := self.known[key]) is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return (key for key in self.columns if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _row(group: list[Cell], columns: Collection[str]) -> Row:
    done = [cell for cell in group if cell["state"] == "done"]
    done = [cell for cell in done if not on_test(cell)] or done  # else they are all there is
    raised = {name for cell in group for name in cell.get("flags") or ()} - {"one-seed"}
    raised |= {"one-seed"} if len(done) == 1 else set()  # each cell is one seed; whether the row is, is known only here
    return Row(
        axes={name: given(group[0], name) or "none" for name in NAMES},
        place=group[0].get("place"),
        values=_Values(done, columns),
        seeds=[cell["seed"] for cell in done],
        n=min((cell["n"] for cell in done if cell.get("n")), default=0),
        flags=[name for name in MEANING if name in raised] + sorted(raised - MEANING.keys()),
        state=next(s for s in ("done", "failed", "skipped", "missing") if any(c["state"] == s for c in group)),
        errors=sorted({cell["error"] for cell in group if cell.get("error")}),
        cells=group,
    )


def on_test(cell: Cell) -> bool:
    """An option of it was chosen by its own test numbers."""
    return "chosen-on-test" in (cell.get("flags") or ())


def finite(value: Any) -> TypeGuard[float]:
    """A number that can be averaged and shown."""
    return isinstance(value, int | float) and math.isfinite(value)


def given(axes: Axes, name: str) -> str | None:
    """What stands on an axis, None where nothing does."""
    return None if axes.get(name) in (None, "none") else axes[name]


def maker(axes: Axes) -> str | None:
    """The condenser, or the loss of the encoder, on whose product the student was trained; None behind a teacher."""
    return given(axes, "condenser") or given(axes, "encoder")


def is_teacher(axes: Axes) -> bool:
    """The measured model is the teacher itself: nothing was distilled."""
    return not given(axes, "distiller") and not given(axes, "student")


def describe(axes: Axes) -> str:
    """A model in words: `badnets → kd → wrn16-1, defence nad`."""
    behind = [None if maker(axes) else given(axes, "distiller"), given(axes, "student")]
    chain = [axes["attack"] or "none", maker(axes), *(["teacher"] if is_teacher(axes) else behind)]
    return f"{' → '.join(filter(None, chain))}, defence {axes['defense']}"


def varying(items: Iterable[Axes], names: Sequence[str] = SETTING) -> list[str]:
    """The names with more than one value, apart from the attack: what a label must say beside it."""
    items = list(items)
    return [name for name in names if name != "attack" and len({given(item, name) for item in items}) > 1]


def label(axes: Axes, beside: Sequence[str], between: str = " / ") -> str:
    """The attack, and what varies beside it."""
    return between.join(given(axes, name) or "none" for name in ("attack", *beside))
