"""Labels: a selector shortened to what tells it from the others of its study."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import BadInput
from ..selectors import Selector, parse_one
from ..study.axes import TABLE
from ..study.cells import Cell, in_bulk

LABELLED = [axis.name for axis in TABLE if axis.labelled]
EVERY = {*LABELLED}
ALWAYS = {"on"}  # options that make it another question: a student that is shown noise


def labels(cells: Iterable[Cell]) -> dict[str, dict[str, str]]:
    """Axis → selector → label: the name, and those options in which selectors of this name differ.

    `nad[lr=tune(0.1,0.05)]` and `nad[beta=0,lr=tune(0.1,0.05)]` become `nad` and `nad[beta=0]`. ALWAYS stays.
    """
    cells = list(cells)
    return {axis: _short({c[axis] for c in cells if c.get(axis)}) for axis in LABELLED}


class Short(list[Cell]):
    """Cells whose labels are short."""


def shortened(cells: Sequence[Cell]) -> Short:
    """The same cells with short labels in place of selectors; short ones stay as they are."""
    if isinstance(cells, Short):
        return cells
    short = labels(cells)
    same = all(text == label for known in short.values() for text, label in known.items())
    if same and all(cell.keys() >= EVERY for cell in cells):
        return Short(cells)

    @functools.cache  # of many cells most share theirs
    def labelled(*selectors: str | None) -> Cell:
        return {axis: short[axis].get(text or "") for axis, text in zip(LABELLED, selectors, strict=True)}

    with in_bulk():
        return Short(cell | labelled(*map(cell.get, LABELLED)) for cell in cells)


def _short(texts: set[str]) -> dict[str, str]:
    parsed = {text: read(text) for text in texts}
    found = {}
    first: dict[str, dict[str, Any]] = {}
    shared: dict[str, set[str]] = {}  # name → options that all of this name have, with one value
    for selector in parsed.values():
        same = first.setdefault(selector.name, selector.options)
        known = shared.setdefault(selector.name, set(same))
        known -= {option for option in known if selector.options.get(option, ...) != same[option]}
    for text, selector in parsed.items():
        differing = {k: v for k, v in selector.options.items() if k in ALWAYS or k not in shared[selector.name]}
        found[text] = Selector(selector.name, differing).text
    return found


def on(distiller: str) -> str:
    """What its student is shown, if it is not the images, in words: " on noise"."""
    shown = read(distiller).options.get("on")
    return f" on {shown}" if shown else ""


def read(text: str) -> Selector:
    """A selector; somebody else's label, which is none, is a name as it stands."""
    try:
        return parse_one(text)
    except BadInput:
        return Selector(text)
