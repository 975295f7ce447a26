"""Cells: one flat object a line of a table, as they lie in a results folder; what is finished there stays."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, create_model

from ..bounds import bounded
from ..errors import BadInput, NotFound, notice
from ..files import write_file
from ..intervals import LEAST
from ..registry import registry
from .axes import AXES, TABLE
from .records import KEY

Cell = dict[str, Any]
NEAR, FAR = 0.03, 0.10  # what another machine moves a run by at most; what is no expectation any more
Plain = str | Annotated[int, Field(ge=-(2**53), le=2**53)] | float | None

_axes: Any = create_model("Axes", **{a.name: (str, ... if a.always else "none") for a in TABLE})  # type: ignore[call-overload]


class _Cell(_axes):
    """What is relied on in a cell, beside the numbers that metrics gave."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Plain | list[dict[str, Any]] | list[float]]
    id: str = Field(pattern=r"^[^/\\]+$")
    study: str
    budget: str = Field(pattern=r"^[^/\\]+$")
    seed: int = Field(ge=-(2**63), lt=2**63)
    state: Literal["done", "failed", "skipped", "missing"]
    error: str | None = None
    place: int | None = None
    target: int | None
    acc: float | None
    n: int | None = None
    flags: list[str]
    published: list[dict[str, Plain]]
    seconds: FiniteFloat = 0.0
    keys: dict[str, Annotated[str, Field(pattern=f"^{KEY.pattern}$")]]
    reproduce: str
    chosen: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    env: dict[str, Any] | None = None


class _Measured(BaseModel):
    """What metrics gave."""

    model_config = ConfigDict(strict=True)
    number: float | None = None
    interval: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)] | None = None


def write_cells(cells: list[Cell], folder: str | Path, *, whole: bool = False, newest: bool = False) -> Path:
    """Write one `<id>.json` a cell; what is finished in the folder stays, and is replaced by nothing less.

    Cells that were not run are not written. Where a folder has finished cells of another budget or study, or made by
    other stages, all of these go into a folder inside it that is named after the budget.

    Args:
        cells: of one study and budget.
        folder: where they go.
        whole: they are all that the study has: what else it has there is named.
        newest: cells made by other stages give way; the stages are still in the store.

    Returns:
        The folder in which they are.

    Raises:
        StoreError: the folder cannot be written.
    """
    cells = [cell for cell in cells if cell["state"] != "missing"]
    asked, planned = Path(folder), {cell["id"] for cell in cells}
    place, there = next((place, there) for place, there in _places(cells, asked) if _has_room(there, cells, newest))
    kept = [cell["id"] for cell in cells if _is_less(cell, there.get(cell["id"]))]
    for cell in cells:
        file = place / f"{cell['id']}.json"
        if cell["id"] not in {*kept, *there} and file.exists():  # no cell any more
            os.replace(file, file.with_suffix(".damaged"))
        if cell["id"] not in kept:
            write_file(file, json.dumps(cell, indent=1, ensure_ascii=False).encode() + b"\n")
    if place != asked:
        notice(f"{asked} has finished cells of another budget or version, which stay; these are in {place}.")
    if kept:
        notice(f"{place} has more of {_some(kept)} than this run gave, and keeps it.")
    others = [id for id, cell in there.items() if id not in planned and cell["study"] in {c["study"] for c in cells}]
    if whole and others:
        notice(f"{place} has {_some(others)} beside those of this run; remove what you do not want.")
    return place


def _places(cells: list[Cell], folder: Path) -> Iterator[tuple[Path, dict[str, Cell]]]:
    """Where cells may go, and the cells that are there by the names of their files."""
    inside = (folder / (named(cells[0]["budget"]) + (f"-{i}" if i > 1 else "")) for i in itertools.count(1))
    for place in itertools.chain([folder], inside):
        yield place, {file.stem: cell for file, cell in _read(place) if isinstance(cell, dict)}


def named(budget: str) -> str:
    """A folder's name for a budget."""
    return re.sub(r"[^\w-]+", "_", budget)


def _has_room(there: dict[str, Cell], cells: list[Cell], newest: bool) -> bool:
    """No finished cell there would be replaced by one of something else, or stand among those of another budget."""
    ours = {cell["id"]: cell for cell in cells}
    for id, old in there.items():
        new = ours.get(id)
        if old["state"] != "done" or not cells:
            continue
        if old["study"] == cells[0]["study"] and old["budget"] != cells[0]["budget"]:
            return False
        if new and (old["study"] != new["study"] or (old["keys"] != new["keys"] and not newest)):
            return False
    return True


def _is_less(new: Cell, old: Cell | None) -> bool:
    """It lacks what a finished cell has, other seeds beside it among that."""
    if old is None or old["state"] != "done":
        return False
    lacks = any(name != "error" and value is not None and new.get(name) is None for name, value in old.items())
    alone = "one-seed" in new["flags"] and "one-seed" not in old["flags"]
    return new["state"] != "done" or (new["keys"] == old["keys"] and (lacks or alone))


def _some(ids: list[str]) -> str:
    """Cells by number and, a few, by name."""
    named = ", ".join(sorted(ids)[:3]) + (", …" if len(ids) > 3 else "")
    return f"{len(ids)} cell{'s' * (len(ids) != 1)} ({named})"


def read_cells(folder: str | Path, whole: bool = False) -> list[Cell]:
    """Read a results folder; a file that is no cell is named and left out.

    Args:
        folder: of JSON files.
        whole: no file is left out.

    Raises:
        NotFound: there is no such folder, or no file in it.
        BadInput: none of its files is a cell or, if it must be `whole`, one is not.
    """
    folder = Path(folder)
    read = list(_read(folder))
    if not read:
        near = {str(p.parent) for p in (*folder.parent.glob("*/*.json"), *folder.glob("*/*.json"))}
        raise NotFound.among("results in", str(folder), sorted(near))
    cells = [cell for _, cell in read if isinstance(cell, dict)]
    damaged = [f"{file} is not a cell ({why})" for file, why in read if isinstance(why, str)]
    if damaged and (whole or not cells):
        raise BadInput(f"{damaged[0]}. Remove it, or give another folder.")
    for line in damaged:
        notice(f"{line}; it is left out.")
    return cells


def _read(folder: Path) -> Iterator[tuple[Path, Cell | str]]:
    """Each file with its cell, or with why it is none."""
    fields = (mark.columns(name).items() for name, mark in registry.marks("metrics").items())
    numbers = {key for field in fields for key, facts in field if facts.unit}
    for file in sorted(folder.glob("*.json")):
        try:
            cell = json.loads(bounded(file, "record").decode())
            _Cell.model_validate(cell)
            for name in numbers:
                _Measured(number=cell.get(name), interval=cell.get(f"{name}_interval"))
            json.dumps(cell, ensure_ascii=False).encode()  # no half characters
            yield file, cell
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"][:2])) or "it"
            yield file, f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        except BadInput as error:
            yield file, str(error).rstrip(".")
        except UnicodeError:
            yield file, "not UTF-8"
        except (ValueError, RecursionError):
            yield file, "no JSON"
        except OSError as error:
            yield file, error.strerror or str(error)


def compare(cells: list[Cell], expected: list[Cell]) -> list[str]:
    """Where a second run leaves the first one: ACC and ASR, cell by cell.

    Of the same seeds each must lie within 3 points, since another machine rounds otherwise. Of other seeds their mean
    must lie where that of so many more runs does in 95 of 100 cases; runs that lie so far apart that this is 10 points
    wide or more either way, or that are less than three, are no expectation, which is said. Returns a line for each.
    """
    lines = []
    ours, theirs = by_axes(cells), by_axes(expected)
    for axes, rows in theirs.items():
        if axes not in ours:
            lines.append(f"{' · '.join(axes)}: not in this run")
            continue
        for name in ("acc", "asr"):
            want, got = ({r["seed"]: r[name] for r in some if r[name] is not None} for some in (rows, ours[axes]))
            if said := _leaves(want, got):
                lines.append(f"{' · '.join(axes)}: {name} {said}")
    return lines


def _leaves(want: dict[int, float], got: dict[int, float]) -> str:
    """What is wrong with numbers by seed, beside those that are expected."""
    if not want:
        return ""
    if not got:
        return "nothing, expected " + ", ".join(f"{value:.3f}" for value in want.values())
    if same := want.keys() & got.keys():
        far = max(same, key=lambda seed: abs(want[seed] - got[seed]))
        off = abs(want[far] - got[far]) > NEAR
        return f"{got[far]:.3f}, expected {want[far]:.3f} ± {NEAR} (seed {far})" if off else ""
    if len(want) < LEAST:
        return f"of other seeds than the {len(want)} expected cannot be compared; {LEAST} are needed"
    from scipy.special import stdtrit

    mean, found = fmean(want.values()), fmean(got.values())
    reach = float(stdtrit(len(want) - 1, 0.975)) * stdev(want.values()) * (1 / len(want) + 1 / len(got)) ** 0.5
    if reach > FAR:
        return f"of other seeds cannot be compared: the expected runs foresee {mean:.3f} ± {reach:.3f}"
    reach = max(reach, NEAR)
    return f"{found:.3f}, expected {mean:.3f} ± {reach:.3f}" if abs(found - mean) > reach else ""


def by_axes(cells: list[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Cells that differ only in their seed, together."""
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple(cell[axis] for axis in AXES if axis in cell)].append(cell)
    return dict(groups)
