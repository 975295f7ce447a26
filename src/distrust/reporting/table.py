"""Tables: cells over seeds as lines of text, or as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ..measurement import over_seeds
from ..study.axes import TABLE
from ..study.cells import by_axes
from .labels import shortened
from .text import interval, percent

Cell = dict[str, Any]
RATES = {"acc": "ACC", "asr": "ASR", "base": "base", "carried": "carried"}
SCORES = {"score": "score", "score_control": "clean twin's"}


def rows(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Headings, then a line for each combination: means over seeds with 95 % t-intervals; rates in percent.

    The axes on which methods stand are shown, those that a study need not have only if it does; others if they vary.
    """
    cells = shortened(cells)
    entries = {axis.name: {str(cell.get(axis.name) or "none") for cell in cells} for axis in TABLE}
    axes = [a.name for a in TABLE if len(entries[a.name]) > 1 or (a.kind and (a.always or entries[a.name] != {"none"}))]
    scores = SCORES if "detector" in axes else {}
    found = [(*axes, *scores.values(), "n", *RATES.values(), "flags")]
    for group in by_axes(cells).values():
        done = [cell for cell in group if cell["state"] == "done"]
        flags = sorted({flag for cell in group for flag in cell.get("flags") or ()})
        flags = [f"{cell['state']}: {cell['error']}" for cell in group if cell["state"] != "done"][:1] or flags
        names = (str(group[0].get(axis) or "none") for axis in axes)
        numbers = (*(_score(done, name) for name in scores), str(len(done)), *(_rate(done, name) for name in RATES))
        found.append((*names, *numbers, ", ".join(flags) or "–"))
    return found


def text(cells: Sequence[Cell]) -> str:
    """The rows in columns."""
    lines = rows(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def html(cells: Sequence[Cell]) -> str:
    """The rows as a table."""
    lines = ("".join(f"<td>{escape(word)}</td>" for word in line) for line in rows(cells))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _rate(cells: Sequence[Cell], name: str) -> str:
    values = [cell[name] for cell in cells if cell.get(name) is not None]
    if not values:
        return "–"
    mean, bounds = over_seeds(values, name)
    return f"{percent(mean)} {interval(bounds)}".strip()


def _score(cells: Sequence[Cell], name: str) -> str:
    values = [cell[name] for cell in cells if cell.get(name) is not None]
    return f"{sum(values) / len(values):.2f}" if values else "–"
