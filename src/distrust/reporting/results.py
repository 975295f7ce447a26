"""Results: what came out of a study, to be printed; read from a folder of cells without what made them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..study.cells import Cell, read_cells
from ..study.store import Store

if TYPE_CHECKING:
    from ..study.graph import Plan
    from ..study.runner import Outcome


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
    """

    cells: list[Cell]
    folder: Path | None
    store: Store = dataclasses.field(repr=False)
    plan: Plan | None = dataclasses.field(default=None, repr=False)
    outcome: Outcome | None = dataclasses.field(default=None, repr=False)
    differences: tuple[str, ...] = ()

    @functools.cached_property
    def answer(self) -> str:
        """What the cells say, in sentences."""
        from .answer import answer

        return answer(self.cells)

    @functools.cached_property
    def failures(self) -> list[str]:
        """What failed of all that the cells need, controls included; no candidate that another one replaces."""
        if not (self.plan and self.outcome):
            return []
        needed = {stage.key for cell in self.plan.cells for stage in cell.needed}
        records = ((stage, self.outcome.records.get(stage.key, {})) for stage in self.plan.stages.values())
        failed = [(s, r["error"]) for s, r in records if s.key in needed and r.get("state") == "failed"]
        return list(dict.fromkeys(_blamed(stage.label, error) for stage, error in failed))

    def __str__(self) -> str:
        from .table import text

        return "\n".join(part for part in (text(self.cells), self.answer.replace("\n", " ")) if part)

    def _repr_html_(self) -> str:
        from .table import html

        return html(self.cells)


def _blamed(label: str, error: str) -> str:
    """A failure by the stage that failed first."""
    return f"failed {error.removeprefix('after ')}" if error.startswith("after ") else f"failed {label}: {error}"


def results(study: str | Path, *, store: str = "runs") -> Results:
    """The cells of a study that ran.

    Args:
        study: a results folder, or a study's name, which is looked for in the store and in ./results.
        store: as `plan` takes it.

    Raises:
        NotFound: no such results, with what is near.
        BadInput: no file there is a cell.
    """
    asked = Path(study)
    beside = folder_of(asked.name, store)
    likely = beside if len(asked.parts) == 1 else asked  # whose neighbours an error names
    folder = next((place for place in (asked, beside, Path("results") / asked.name) if place.is_dir()), likely)
    inside = {file.parent for file in folder.glob("*/*.json")}  # of other budgets
    if len(inside) == 1 and not any(folder.glob("*.json")):
        (folder,) = inside
    return Results(read_cells(folder), folder, Store(store))


def folder_of(name: str, store: str) -> Path:
    """Where a study's cells go by default: beside the stages, or, if those are remote, here."""
    return Path("results" if "://" in store else f"{store}/results") / name
