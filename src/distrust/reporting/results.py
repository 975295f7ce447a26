"""Results: what came out of a study, to be printed; read from a folder of cells without what made them."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..study.cells import Cell, read_cells
from ..study.store import Store

if TYPE_CHECKING:
    from ..study.graph import Plan
    from ..study.runner import Outcome
    from .rows import Row


class Large(NamedTuple):
    """What is kept of a run that goes through a study block by block."""

    states: Mapping[str, int]  # of cells
    failures: list[str]


class Stored(Sequence[Cell]):
    """The cells of a folder, read when they are first looked at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def _cells(self) -> list[Cell]:
        return read_cells(self.folder)

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, at: Any) -> Any:
        return self._cells[at]


@dataclass(frozen=True)
class Results:
    """What came out of a study; printed, its cells over seeds and the answer in sentences.

    Args:
        cells: one flat object per combination and seed.
        folder: where they lie; None where nothing was written.
        store: the stages behind them.
        plan: of which stages they are made; None where only the cells are here.
        outcome: how the run went, if there was one.
        differences: where they leave the results that were expected, a line each.
        large: of a study that was run block by block, what was counted; `cells` are read from the folder then, when
            they are first looked at.
    """

    cells: Sequence[Cell]
    folder: Path | None
    store: Store = dataclasses.field(repr=False)
    plan: Plan | None = dataclasses.field(default=None, repr=False)
    outcome: Outcome | None = dataclasses.field(default=None, repr=False)
    differences: tuple[str, ...] = ()
    large: Large | None = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def answer(self) -> str:
        """What the cells say, in sentences."""
        from .answer import answer

        return answer(self._short)

    @functools.cached_property
    def _short(self) -> list[Cell]:
        from .labels import shortened

        return shortened(self.cells)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The cells over seeds."""
        from .rows import over_seeds

        return over_seeds(self._short)

    @functools.cached_property
    def failures(self) -> list[str]:
        """What failed of all that the cells need, controls included; no candidate that another one replaces."""
        if self.large:
            return self.large.failures
        return failures_of(self.plan, self.outcome) if self.plan and self.outcome else []

    @functools.cached_property
    def states(self) -> Mapping[str, int]:
        """How many cells are done, failed, skipped or missing."""
        return self.large.states if self.large else Counter(cell["state"] for cell in self.cells)

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 0) -> str:
        """A table and the answer.

        Args:
            width: in characters, of where it is read: a table that is wider is given without its runs and intervals. 0:
                as wide as it comes.
        """
        from .table import overview

        if self.large:
            told = ", ".join(f"{n:,} {state}" for state, n in self.states.items())
            return f"{sum(self.states.values()):,} cells: {told}" + (f"; in {self.folder}" if self.folder else "")
        made = overview(self._short)
        table = made.to("text").rstrip()
        if 0 < width < max(map(len, table.split("\n"))):
            table = dataclasses.replace(made, intervals="none").to("text").rstrip()
        return "\n".join(part for part in (table, self.answer.replace("\n", " ")) if part)

    def export(self, to: str) -> int:
        """Write finished cells as runs of "tensorboard:FOLDER" or "mlflow:URI"; returns how many were new there.

        Raises:
            BadInput: another place, or one that cannot be written.
            NotFound: TensorBoard or MLflow is not installed.
        """
        from .export import export

        return export(self.cells, to)

    def _repr_html_(self) -> str:
        from .table import overview

        return overview(self.cells).to("html")


def failures_of(plan: Plan, outcome: Outcome) -> list[str]:
    """What failed in a run of what the cells of a plan need."""
    needed = {stage.key for cell in plan.cells for stage in cell.needed}
    records = ((stage, outcome.records.get(stage.key, {})) for stage in plan.stages.values())
    failed = [(s, r["error"]) for s, r in records if s.key in needed and r.get("state") == "failed"]
    return list(dict.fromkeys(_blamed(stage.label, error) for stage, error in failed))


def _blamed(label: str, error: str) -> str:
    """A failure by the stage that failed first."""
    return f"failed {error.removeprefix('after ')}" if error.startswith("after ") else f"failed {label}: {error}"


def results(study: str | Path, *, store: str = "runs", where: str = "") -> Results:
    """The cells of a study that ran.

    Args:
        study: a results folder, or a study's name, which is looked for in the store and in ./results.
        store: as `plan` takes it.
        where: only the cells for which this holds, as `read_cells` takes it.

    Raises:
        NotFound: no such results, with what is near.
        BadInput: no file there is a cell, or none for which `where` holds.
    """
    asked = Path(study)
    places = (asked, folder_of(asked.name, store), Path("results") / asked.name)
    near = [place for place in places[len(asked.parts) == 1 :] if place.parent.is_dir()]  # what an error speaks of
    there = [place for place in places if place.is_dir()]  # one of pictures may be called as the study is
    full = [place for place in there if any(place.glob("*.json")) or any(place.glob("*/*.json"))]
    folder = [*full, *there, *near, asked][0]
    inside = {file.parent for file in folder.glob("*/*.json")}  # of other budgets
    if len(inside) == 1 and not any(folder.glob("*.json")):
        (folder,) = inside
    return Results(read_cells(folder, where=where), folder, Store(store))


def folder_of(name: str, store: str) -> Path:
    """Where a study's cells go by default: beside the stages, or, if those are remote, here."""
    return Path("results" if "://" in store else f"{store}/results") / name
