"""Lines: every row of every study on the board, once, with its verdict among all of them."""

from __future__ import annotations

import base64
import contextlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import NotFound
from ...intervals import Interval
from ...study.axes import TABLE
from ...study.cells import Cell, read_cells
from .. import text
from ..labels import on, shortened
from ..rows import Estimate, Row, given, is_teacher, over_seeds
from ..verdict import once, verdicts
from .entry import Entry, bare, read_entry, stands, study_file

RUN = "distrust run studies/nad-mini.toml --results results/nad-mini"  # what an empty board is told to type
SHOWN = ("acc", "asr", "base", "carried", "untriggered", "acc_control", "teacher_asr")
KEY = 12  # letters of a stage's key, which are enough for `distrust why`


@dataclass(frozen=True, eq=False)
class Source:
    """A study on the board: ours, from a results folder, or somebody's, from an entry.

    Args:
        name: of the study.
        cells: as they were read, with short labels.
        entry: from which it comes; None of ours.
        question: what its study file asks, if that is here.
        text: of that file.
    """

    name: str
    cells: list[Cell]
    entry: Entry | None = None
    question: str = ""
    text: str = ""

    @property
    def by(self) -> str:
        """Who answers for it; "" of ours."""
        return self.entry.by if self.entry else ""


@dataclass(eq=False)
class Line:
    """A row of a study.

    Args:
        source: its study.
        row: over seeds.
        verdict: on what the student inherited, "" where there is none.
        twin: the line that has its cells already, in another study by the same people.
        also: the other studies that have its cells.
    """

    source: Source
    row: Row
    verdict: str = ""
    twin: Line | None = None
    also: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its name in addresses, the same as long as its study has it."""
        return str(re.sub(r"-s\d+$", "", self.row.cells[0]["id"]))

    def stands(self) -> Iterator[tuple[str, str]]:
        """The methods on its axes, by kind and name."""
        return stands(self.row.axes)


class Board(NamedTuple):
    """What the site shows.

    Args:
        sources: the studies, ours first.
        lines: of each study, in its order; those with a twin too.
    """

    sources: list[Source]
    lines: dict[Source, list[Line]]

    @property
    def unique(self) -> list[Line]:
        """Each measurement once."""
        return [line for own in self.lines.values() for line in own if not line.twin]


def gather(results: str | Path, entries: Iterable[str | Path]) -> Board:
    """Read what the board shows.

    Args:
        results: a folder of cells, or of such folders.
        entries: files of others, or folders of them.

    Raises:
        NotFound: there is no such place, or no finished cell in it.
        BadInput: a folder whose files are no cells, or an entry that breaks form or protocol.
    """
    found = [*_ours(Path(results)), *_theirs(entries)]
    if not any(cell["state"] == "done" for source in found for cell in source.cells):
        raise NotFound(f"a board of {results} was asked for; it has no finished cell. Run a study first: {RUN}")
    every = shortened([cell for source in found for cell in source.cells])  # labels that hold on every page
    at, lines = 0, {}
    for source in found:
        source.cells[:], at = every[at : at + len(source.cells)], at + len(source.cells)
        lines[source] = [Line(source, row) for row in over_seeds(once(source.cells))]
    board = Board(found, lines)
    _pair(board)
    said = verdicts([line.row for line in board.unique])
    for line in [line for own in lines.values() for line in own]:
        line.verdict = str(said.get((line.twin or line).row, ""))
    return board


def _ours(folder: Path) -> Iterator[Source]:
    if not folder.is_dir():
        raise NotFound(f"a board of {folder} was asked for; there is no such folder. Run a study first: {RUN}")
    folders = sorted({file.parent for depth in ("", "*/", "*/*/") for file in folder.glob(f"{depth}*.json")})
    studies: dict[str, list[Cell]] = {}
    for one in folders:
        for cell in read_cells(one):
            studies.setdefault(cell["study"], []).append(cell)
    for name, cells in studies.items():
        yield Source(name, cells, None, *_asked(cells))


def _asked(cells: Sequence[Cell]) -> tuple[str, str]:
    """The question of a study whose file is here, and the file."""
    content = study_file(cells)
    with contextlib.suppress(ValueError, RecursionError):
        return str(tomllib.loads(content).get("question", "")), content
    return "", ""


def _theirs(entries: Iterable[str | Path]) -> Iterator[Source]:
    for place in map(Path, entries):
        for file in sorted(place.glob("*.json")) if place.is_dir() else [place]:
            entry = read_entry(file)
            for name in dict.fromkeys(cell["study"] for cell in entry.cells):
                cells = [{"carried": None, **cell} for cell in entry.cells if cell["study"] == name]
                yield Source(name, cells, entry, "", entry.study_file)


def _pair(board: Board) -> None:
    """Find lines that another study by the same people has too, with these seeds or more."""
    owner: dict[Any, Line] = {}
    lines = [line for own in board.lines.values() for line in own]
    for line in sorted(lines, key=lambda line: -len(line.row.cells)):
        axes = tuple(value for name, value in line.row.axes.items() if name != "study")
        cells = [(line.source.by, axes, cell["seed"], *cell["keys"].values()) for cell in line.row.cells]
        owners = {owner.get(cell) for cell in cells}
        if len(owners) == 1 and (twin := owners.pop()) and all(cell["keys"] for cell in line.row.cells):
            line.twin = twin
            twin.also.append(line.source.name)
        for cell in cells:
            owner.setdefault(cell, line)


def told(line: Line, page: str) -> dict[str, Any]:
    """A line as the site's data have it: plain values, rates as fractions.

    Args:
        line: which.
        page: that of its study.
    """
    row = line.row
    numbers = {name: _estimate(row.values[name]) for name in SHOWN if name in row.values}
    source = line.source
    return {
        "study": source.name, "by": source.by, "page": page, "id": line.id, "also": line.also,
        **{axis.name: given(row.axes, axis.name) for axis in TABLE if axis.name != "detector"},
        "budget": row.axes["budget"], "place": row.place, "way": way(row), "bare": bare(row.axes["attack"]),
        "numbers": numbers, "seeds": row.seeds, "n": row.n, "verdict": line.verdict, "flags": row.flags,
        "doubted": row.doubted, "state": row.state, "errors": row.errors, "commands": commands(row.cells),
        "published": published(row), "cells": [_cell(cell) for cell in row.cells],
    }  # fmt: skip


def way(row: Row) -> tuple[str, str]:
    """How the knowledge came into the measured model: what kind of way, and which."""
    axes = row.axes
    if maker := given(axes, "encoder"):
        return "encoder", f"{bare(maker)} → {axes['student']}"
    if maker := given(axes, "condenser"):
        return "condenser", bare(maker)
    if is_teacher(axes):
        return "teacher", "teacher"
    return "distiller", bare(axes["distiller"]) + on(axes["distiller"])


def _estimate(one: Estimate) -> dict[str, Any]:
    low, high = _rounded(*(one.interval or (None, None)))
    runs = list(_rounded(*one.values))
    return {"mean": _rounded(one.mean)[0], "low": low, "high": high, "runs": runs, "reach": text.reach(one)}


def _rounded(*values: float | None) -> list[float | None]:
    return [None if value is None else round(value, 5) for value in values]


def _cell(cell: Cell) -> dict[str, Any]:
    carried: Interval | None = cell.get("carried_interval")
    return {
        "seed": cell["seed"], "state": cell["state"], "error": cell["error"], "seconds": cell["seconds"],
        **{name: _rounded(cell.get(name))[0] for name in ("acc", "asr", "base", "carried")},
        "interval": _rounded(*carried) if carried else None, "command": cell["reproduce"],
        "keys": {kind: key[:KEY] for kind, key in cell["keys"].items()},
    }  # fmt: skip


def commands(cells: Sequence[Cell]) -> list[str]:
    """What makes cells again: one command for all seeds where the seed is only the end of a cell's name."""
    return list(dict.fromkeys(re.sub(r"-s\d+('?)$", r"\1", cell["reproduce"]) for cell in cells))


def published(row: Row) -> list[dict[str, Any]]:
    """Other people's numbers for this row, each beside ours counted their way."""
    from ..published import COUNTED

    found = []
    for theirs in {repr(one): one for cell in row.cells for one in cell["published"] or ()}.values():
        acc, asr, _ = COUNTED.get(theirs.get("counted", "others"), COUNTED["others"])
        ours = {name: _mean(row, field) for name, field in (("acc", acc), ("asr", asr))}
        found.append(
            {name: theirs.get(name) for name in ("source", "convention", "note", "acc", "asr")} | {"ours": ours}
        )
    return found


def _mean(row: Row, name: str) -> dict[str, Any] | None:
    values = [cell[name] for cell in row.cells if cell["state"] == "done" and cell.get(name) is not None]
    return _estimate(Estimate.of(values)) if values else None


def pictures(entry: Entry | None) -> dict[str, dict[str, list[bytes]]]:
    """The pictures of an entry: attack → kind → PNG files."""
    strips = entry.pictures if entry else {}
    return {
        name: {
            kind: [base64.b64decode(one) for one in getattr(strip, kind)]
            for kind in ("clean", "triggered", "difference")
        }
        for name, strip in strips.items()
    }
