"""The heat map of what is carried: one facet per defence, attacks down, distillers across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .rows import Row, given
from .verdict import plain

Model = tuple[str | None, str | None]  # distiller and student


class Facet(NamedTuple):
    """One defence: for each setting its axes, and for each model the place of its row; without lines, not measured."""

    defense: str
    lines: list[tuple[dict[str, str], list[int | None]]]


def models(rows: Sequence[Row]) -> list[Model]:
    """The columns, teachers first."""
    return sorted(dict.fromkeys(map(_model, rows)), key=any)


def facets(rows: Sequence[Row]) -> list[Facet]:
    """Arrange rows, with the null row of the defences always among them, so that its lack is seen."""
    place = {(row.axes["defense"], row.setting, _model(row)): i for i, row in enumerate(rows)}
    across, settings = models(rows), {row.setting: row.axes for row in rows}
    found = {
        name: [(axes, [place.get((name, at, model)) for model in across]) for at, axes in settings.items()]
        for name in dict.fromkeys(row.axes["defense"] for row in rows)
    }
    null = plain(found)
    return [Facet(name, found.get(name, [])) for name in dict.fromkeys(["none", null, *found] if null else found)]


def _model(row: Row) -> Model:
    return given(row.axes, "distiller"), given(row.axes, "student")
