"""Tables: cells over seeds as lines of text, or as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..study.axes import TABLE
from .labels import shortened
from .rows import Cell, Row, over_seeds
from .text import number, reach

RATES = {"acc": "ACC", "asr": "ASR", "base": "base", "carried": "carried"}
SCORES = {"score": "score", "score_control": "clean twin's"}


def rows(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Headings, then a line for each combination: means over seeds and how far these lie apart; rates in percent.

    The axes on which methods stand are shown, those that a study need not have only if it does; others if they vary.
    """
    found = over_seeds(shortened(cells))
    entries = {axis.name: {row.axes[axis.name] for row in found} for axis in TABLE}
    axes = [a.name for a in TABLE if len(entries[a.name]) > 1 or (a.kind and (a.always or entries[a.name] != {"none"}))]
    scores = SCORES if "detector" in axes else {}
    lines = [(*axes, *scores.values(), "n", *RATES.values(), "flags")]
    for row in found:
        said = [f"{cell['state']}: {cell['error']}" for cell in row.cells if cell["state"] != "done"][:1]
        said = said or sorted({flag for cell in row.cells for flag in cell.get("flags") or ()})
        numbers = (*(_told(row, name) for name in scores), str(len(row.seeds)), *(_told(row, name) for name in RATES))
        lines.append((*(row.axes[axis] for axis in axes), *numbers, ", ".join(said) or "–"))
    return lines


def text(cells: Sequence[Cell]) -> str:
    """The rows in columns."""
    lines = [[word.replace("\n", " ") for word in line] for line in rows(cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def html(cells: Sequence[Cell]) -> str:
    """The rows as a table."""
    lines = ("".join(f"<td>{escape(word)}</td>" for word in line) for line in rows(cells))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _told(row: Row, name: str) -> str:
    if not (told := row.values.get(name)):
        return number(None, "share")
    return number(told.mean, "score") if name in SCORES else f"{number(told.mean, 'share')} {reach(told)}".strip()
