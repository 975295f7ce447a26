"""The heat map of what is carried: one facet per defence, attacks down, distillers across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .rows import Row, given, varying
from .verdict import plain

Model = tuple[str | None, str | None]


class Line(NamedTuple):
    """One setting; a tile is the place of its row among all, None where the grid has a hole."""

    name: str
    note: str
    tiles: list[int | None]


class Facet(NamedTuple):
    """One defence; without lines it was not measured. A column has a name and a note."""

    defense: str
    columns: list[tuple[str, str]]
    lines: list[Line]


def facets(rows: Sequence[Row]) -> list[Facet]:
    """Arrange rows for the template, the null row of the defences always among them, so that its lack is seen."""
    models = sorted(dict.fromkeys(map(_model, rows)), key=lambda model: model != (None, None))
    measured = list(dict.fromkeys(row.axes["defense"] for row in rows))
    beaten = plain(measured)
    place = {(row.axes["defense"], row.setting, _model(row)): i for i, row in enumerate(rows)}
    beside = varying(row.axes for row in rows)
    several = len({student for _, student in models if student}) > 1
    settings = {row.setting: row.axes for row in rows}

    def lines(defense: str) -> list[Line]:
        return [
            Line(
                axes["attack"],
                " · ".join(axes[name] for name in beside),
                [place.get((defense, setting, model)) for model in models],
            )
            for setting, axes in settings.items()
        ]

    columns = [_column(*model, several) for model in models]
    defenses = dict.fromkeys(["none", beaten, *measured] if beaten else measured)
    return [Facet(d, columns, lines(d) if d in measured else []) for d in defenses]


def _column(distiller: str | None, student: str | None, several: bool) -> tuple[str, str]:
    """Name of a measured model, and a note with the student's where there are several."""
    if distiller is None:
        return student or "teacher", ""
    return distiller, (student or "") if several else ""


def _model(row: Row) -> Model:
    return given(row.axes, "distiller"), given(row.axes, "student")
