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

    def __str__(self) -> str:
        from .table import text

        return "\n".join(part for part in (text(self.cells), self.answer) if part)

    def _repr_html_(self) -> str:
        from .table import html

        return html(self.cells)


def results(study: str | Path, *, store: str = "runs") -> Results:
    """The cells of a study that ran.

    Args:
        study: a results folder, or a study's name, which is looked for in the store and in ./results.
        store: as `plan` takes it.

    Raises:
        NotFound: no such results, with what is near.
        BadInput: a file there is no cell.
    """
    asked = Path(study)
    beside = folder_of(asked.name, store)
    likely = beside if len(asked.parts) == 1 else asked  # whose neighbours an error names
    folder = next((place for place in (asked, beside, Path("results") / asked.name) if place.is_dir()), likely)
    return Results(read_cells(folder), folder, Store(store))


def folder_of(name: str, store: str) -> Path:
    """Where a study's cells go by default: beside the stages, or, if those are remote, here."""
    return Path("results" if "://" in store else f"{store}/results") / name
