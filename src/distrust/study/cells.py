"""Cells: one flat object a line of a table, as they lie in a results folder."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import BadInput, NotFound
from ..files import write_file
from ..intervals import over_seeds
from .axes import AXES

Cell = dict[str, Any]


def write_cells(cells: list[Cell], folder: str | Path, whole: bool = False) -> Path:
    """Write one `<id>.json` a cell; if the cells are the `whole` study, remove its older ones.

    Raises:
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    for cell in cells:
        write_file(folder / f"{cell['id']}.json", json.dumps(cell, indent=1, ensure_ascii=False).encode() + b"\n")
    kept = {cell["id"] for cell in cells}
    for file in folder.glob("*.json") if whole else ():
        if file.stem not in kept and _study_of(file) in {cell["study"] for cell in cells}:
            file.unlink()
    return folder


def _study_of(file: Path) -> str | None:
    try:
        return json.loads(file.read_text()).get("study")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        return None  # not a cell, so not ours to remove


def read_cells(folder: str | Path) -> list[Cell]:
    """Read a results folder.

    Raises:
        NotFound: there is no such folder, or no cell in it.
        BadInput: a file in it is not a cell.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json"))
    if not files:
        near = [str(p.parent) for p in folder.parent.glob("*/*.json")]
        raise NotFound.among("results in", str(folder), sorted(set(near)))
    cells = []
    for file in files:
        try:
            cell = json.loads(file.read_text())
            cell["id"], cell["acc"], cell["seed"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInput(f"{file} is not a cell ({error}). Remove it, or give another folder.") from None
        cells.append(cell)
    return cells


def compare(cells: list[Cell], expected: list[Cell]) -> list[str]:
    """Where a second run leaves the first one's intervals: mean ACC and ASR over seeds, cell by cell.

    A mean must lie within the expected mean ± the 95 % interval over its seeds, or, if that is narrower, within
    2 points. Returns one line for each that does not.
    """
    lines = []
    ours, theirs = by_axes(cells), by_axes(expected)
    for axes, rows in theirs.items():
        if axes not in ours:
            lines.append(f"{' · '.join(axes)}: not in this run")
            continue
        for name in ("acc", "asr"):
            want = [r[name] for r in rows if r[name] is not None]
            got = [r[name] for r in ours[axes] if r[name] is not None]
            if not want:
                continue
            mean, interval = over_seeds(want)
            reach = max(0.02, interval[1] - mean if interval else 0.0)
            if not got or abs(sum(got) / len(got) - mean) > reach:
                value = f"{sum(got) / len(got):.3f}" if got else "nothing"
                lines.append(f"{' · '.join(axes)}: {name} {value}, expected {mean:.3f} ± {reach:.3f}")
    return lines


def by_axes(cells: list[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Cells that differ only in their seed, together."""
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple(cell[axis] for axis in AXES if axis in cell)].append(cell)
    return dict(groups)
