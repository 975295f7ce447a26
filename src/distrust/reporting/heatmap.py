"""The heat map of what is carried: one facet per defence, attacks down, distillers across."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .rows import Row, given
from .verdict import plain

Model = tuple[str | None, str | None]  # distiller and student


class Facet(NamedTuple):
    """One defence: its models, and for each setting its axes and the place of each model's row; empty: not measured."""

    defense: str
    models: list[Model]
    lines: list[tuple[dict[str, str], list[int | None]]]


def models(rows: Iterable[Row]) -> list[Model]:
    """The columns, teachers first."""
    return sorted(dict.fromkeys(map(_model, rows)), key=any)


def facets(rows: Sequence[Row]) -> list[Facet]:
    """Arrange rows, with the null row of the defences always among them, so that its lack is seen.

    A facet has the settings and the models on which its defence was tried: of many studies together, few meet.
    """
    own: dict[str, dict[int, Row]] = {}
    for i, row in enumerate(rows):
        own.setdefault(row.axes["defense"], {})[i] = row
    found = {name: _facet(name, tried) for name, tried in own.items()}
    null = plain(found)
    names = dict.fromkeys(["none", null, *found] if null else found)
    return [found.get(name) or Facet(name, [], []) for name in names]


def _facet(name: str, tried: dict[int, Row]) -> Facet:
    across, settings = models(tried.values()), {row.setting: row.axes for row in tried.values()}
    place = {(row.setting, _model(row)): i for i, row in tried.items()}
    return Facet(name, across, [(axes, [place.get((at, model)) for model in across]) for at, axes in settings.items()])


def _model(row: Row) -> Model:
    return given(row.axes, "distiller"), given(row.axes, "student")
