"""The heat map of what is carried: settings, models and defences, in the panels that take the least room."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .labels import read
from .rows import Row, finite, given, varying
from .verdict import plain


class Label(NamedTuple):
    """A setting, a model or a defence: what tells it from others, its name, and small words below that."""

    key: Any
    name: str
    small: str = ""


class Panel(NamedTuple):
    """What one of the three has: the places of its rows, down and across; None where nothing was measured."""

    title: Label
    across: list[Label]
    lines: list[tuple[Label, list[int | None]]]


def panels(rows: Sequence[Row]) -> list[Panel]:
    """Arrange rows by defence, setting or model, whichever takes the least room; of the other two the more go down.

    A panel has the lines and columns in which something was tried. Models that nobody attacked carry nothing: they are
    left out, unless one did not finish.
    """
    beside = varying(row.axes for row in rows)
    several = len({row.axes["student"] for row in rows if given(row.axes, "distiller")}) > 1
    tiles: dict[tuple[Label, ...], int] = {
        (_defense(row), _setting(row, beside), _model(row, several)): i
        for i, row in enumerate(rows)
        if given(row.axes, "attack") or row.state != "done"
    }
    names = defenses(rows)
    labels = [list(dict.fromkeys(spot[axis] for spot in tiles)) for axis in range(3)]
    labels[0].sort(key=lambda label: names.index(label.key))
    labels[2].sort(key=lambda label: any(label.key))  # teachers first
    return min((_panels(tiles, labels, by) for by in range(3)), key=_room)


def _panels(tiles: Mapping[tuple[Label, ...], int], labels: Sequence[list[Label]], by: int) -> list[Panel]:
    across, down = sorted({0, 1, 2} - {by}, key=lambda axis: (len(labels[axis]), -axis))
    found = []
    for title in labels[by]:
        own = {(spot[down], spot[across]): i for spot, i in tiles.items() if spot[by] == title}
        lines, columns = (
            [label for label in labels[axis] if any(label == spot[place] for spot in own)]
            for place, axis in enumerate((down, across))
        )
        places = [(line, [own.get((line, column)) for column in columns]) for line in lines]
        found.append(Panel(title, columns, places))
    return found


def _room(some: Sequence[Panel]) -> int:
    """In tiles; the names and the edge of a panel are as large as four of them each way."""
    return sum((len(panel.lines) + 4) * (len(panel.across) + 4) for panel in some)


def defenses(rows: Iterable[Row]) -> list[str]:
    """In the order of the map and of legends: none, plain fine-tuning, the others; variants beside their method."""
    found = dict.fromkeys(row.axes["defense"] for row in rows)
    known = {name: read(name) for name in dict.fromkeys(["none", plain(found), *found]) if name in found}
    methods = [selector.name for selector in known.values()]

    def place(name: str) -> tuple[int, list[str], list[float]]:
        options = known[name].options
        return methods.index(known[name].name), [*options], [*filter(finite, options.values())]

    return sorted(known, key=place)


def _setting(row: Row, beside: Sequence[str]) -> Label:
    return _label(row.setting, row.axes["attack"], *(given(row.axes, name) for name in beside))


def _model(row: Row, several: bool) -> Label:
    distiller, student = given(row.axes, "distiller"), given(row.axes, "student")
    return _label((distiller, student), distiller or student or "teacher", student if distiller and several else None)


def _defense(row: Row) -> Label:
    return _label(row.axes["defense"], given(row.axes, "defense") or "no defence")


def _label(key: Any, name: str, *beside: str | None) -> Label:
    """A method, with its options and what stands beside it below."""
    method, _, options = name.partition("[")
    return Label(key, method, " · ".join(filter(None, (options.removesuffix("]").replace(",", ", "), *beside))))
