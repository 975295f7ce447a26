"""Cells: one flat object a line of a table, as they lie in a results folder; what is finished there stays."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, create_model

from ..bounds import bounded
from ..errors import BadInput, NotFound, notice
from ..files import write_file
from ..intervals import LEAST, foreseen
from ..registry import registry
from .axes import AXES, TABLE
from .records import KEY

Cell = dict[str, Any]
MANY = 2000  # files in a folder that are not read one by one every time
COMPARED = (*AXES, "seed", "acc", "asr")  # what `compare` looks at
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
    chosen_control: dict[str, Any] | None = None
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
    writer = Writer(folder, newest)
    writer.write(cells)
    return writer.close(whole)


class Writer:
    """Writes the cells of one study and budget, some at a time, as `write_cells` does.

    Where cells are found that leave no room only when others are written already, those stay where they are.

    Args:
        folder, newest: as `write_cells` takes them.
    """

    def __init__(self, folder: str | Path, newest: bool = False) -> None:
        self.asked, self.newest = Path(folder), newest
        self.place: Path | None = None
        self.there: dict[str, str] = {}  # the cells that were there, and of which study
        self.written: dict[str, str] = {}
        self.kept: list[str] = []

    def write(self, cells: Iterable[Cell]) -> None:
        """Write those that were run.

        Raises:
            StoreError: the folder cannot be written.
        """
        ours = {cell["id"]: cell for cell in cells if cell["state"] != "missing"}
        if not ours:
            return
        standing = self._standing(ours) if self.place else None
        if standing is None:
            standing = self._settle(ours)
        assert self.place is not None
        for id, cell in ours.items():
            file = self.place / f"{id}.json"
            if _is_less(cell, standing.get(id)):
                self.kept.append(id)
                continue
            if id not in standing and file.exists():  # no cell any more
                os.replace(file, file.with_suffix(".damaged"))
            write_file(file, json.dumps(cell, indent=1, ensure_ascii=False).encode() + b"\n")
        self.written |= {id: cell["study"] for id, cell in ours.items()}

    def close(self, whole: bool = False) -> Path:
        """Tell what a user should know of them; returns the folder in which they are."""
        place, studies = self.place or self.asked, set(self.written.values())
        if place != self.asked:
            notice(f"{self.asked} has finished cells of another budget or version, which stay; these are in {place}.")
        if self.kept:
            notice(f"{place} has more of {_some(self.kept)} than this run gave, and keeps it.")
        others = [id for id, study in self.there.items() if id not in self.written and study in studies]
        if whole and others:
            notice(f"{place} has {_some(others)} beside those of this run; remove what you do not want.")
        return place

    def _settle(self, ours: Mapping[str, Cell]) -> dict[str, Cell]:
        """Choose the folder, and read what it has of these."""
        first = next(iter(ours.values()))
        inside = (self.asked / (named(first["budget"]) + (f"-{i}" if i > 1 else "")) for i in itertools.count(1))
        for place in itertools.chain([self.asked], inside):
            there, standing = dict[str, str](), dict[str, Cell]()
            for file, cell in _read(sorted(place.glob("*.json"))):
                if isinstance(cell, dict):
                    if not _leaves_room(cell, ours.get(file.stem), first, self.newest):
                        break
                    there[file.stem] = cell["study"]
                    standing |= {file.stem: cell} if file.stem in ours else {}
            else:
                self.place, self.there = place, there
                return standing
        raise AssertionError("there is always another folder")

    def _standing(self, ours: Mapping[str, Cell]) -> dict[str, Cell] | None:
        """What the folder has of these; None where it has no room for them."""
        assert self.place is not None
        files = (file for id in ours if (file := self.place / f"{id}.json").exists())
        standing = {file.stem: cell for file, cell in _read(files) if isinstance(cell, dict)}
        first = next(iter(ours.values()))
        fits = all(_leaves_room(cell, ours[id], first, self.newest) for id, cell in standing.items())
        return standing if fits else None


def named(budget: str) -> str:
    """A folder's name for a budget."""
    return re.sub(r"[^\w-]+", "_", budget)


def _leaves_room(old: Cell, new: Cell | None, first: Cell, newest: bool) -> bool:
    """No finished cell is replaced by one of something else, or stands among those of another budget."""
    if old["state"] != "done":
        return True
    if old["study"] == first["study"] and old["budget"] != first["budget"]:
        return False
    return not (new and (old["study"] != new["study"] or (old["keys"] != new["keys"] and not newest)))


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


def read_cells(folder: str | Path, whole: bool = False, where: str = "") -> list[Cell]:
    """Read a results folder; a file that is no cell is named and left out.

    Of a folder of very many cells, what was read is kept in the cache directory; a file that changed is read again.

    Args:
        folder: of JSON files.
        whole: no file is left out.
        where: only the cells for which this holds, a condition in SQL such as `asr > 0.5 and defense = 'nad'`; needs
            DuckDB (`distrust[query]`).

    Raises:
        NotFound: there is no such folder, or no file in it; there is no DuckDB.
        BadInput: none of its files is a cell or, if it must be `whole`, one is not; `where` is no condition, or holds
            for none.
    """
    folder = Path(folder)
    names = sorted(name for name in os.listdir(folder) if name.endswith(".json")) if folder.is_dir() else []
    if not names:
        near = {str(p.parent) for p in (*folder.parent.glob("*/*.json"), *folder.glob("*/*.json"))}
        raise NotFound.among("results in", str(folder), sorted(near))
    if where or len(names) > MANY:
        from . import compact

        table, wrong = compact.table_of(folder, _read, numbers_of_metrics())
        with in_bulk():
            cells = compact.cells_of(compact.where(table, where) if where and len(table) else table)
        damaged = [f"{folder / name} is not a cell ({why})" for name, why in wrong.items()]
        if where and len(table) and not cells:
            raise BadInput(f"none of the {len(table):,} cells in {folder} has {where}. Give another condition.")
    else:
        read = list(_read(folder / name for name in names))
        cells = [cell for _, cell in read if isinstance(cell, dict)]
        damaged = [f"{file} is not a cell ({why})" for file, why in read if isinstance(why, str)]
    if damaged and (whole or not cells):
        raise BadInput(f"{damaged[0]}. Remove it, or give another folder.")
    for line in damaged:
        notice(f"{line}; it is left out.")
    return cells


@contextlib.contextmanager
def in_bulk() -> Iterator[None]:
    """Nobody looks for cycles while very many cells are made or read: it takes as long as that, and finds none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def flaw(cell: Any, numbers: set[str]) -> str:
    """Why something is no cell; of a cell, nothing.

    Args:
        cell: as it comes from JSON.
        numbers: the fields that are numbers, as `numbers_of_metrics` gives them.
    """
    try:
        _Cell.model_validate(cell)
        for name in numbers & {name.removesuffix("_interval") for name in cell}:
            _Measured(number=cell.get(name), interval=cell.get(f"{name}_interval"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][:2])) or "it"
        return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return ""


def numbers_of_metrics() -> set[str]:
    """Fields of a cell that are numbers, as metrics say."""
    fields = (mark.columns(name).items() for name, mark in registry.marks("metrics").items())
    return {key for field in fields for key, facts in field if facts.unit}


def _read(files: Iterable[Path]) -> Iterator[tuple[Path, Cell | str]]:
    """Each file with its cell, or with why it is none."""
    numbers = numbers_of_metrics()
    for file in files:
        try:
            text = bounded(file, "record").decode()
            cell = json.loads(text)
            if "\\u" in text:
                json.dumps(cell, ensure_ascii=False).encode()  # no half characters
            yield file, flaw(cell, numbers) or cell
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
    low, high = foreseen([*want.values()], len(got))
    mean, found, reach = (low + high) / 2, fmean(got.values()), (high - low) / 2
    if reach > FAR:
        return f"of other seeds cannot be compared: the expected runs foresee {mean:.3f} ± {reach:.3f}"
    reach = max(reach, NEAR)
    return f"{found:.3f}, expected {mean:.3f} ± {reach:.3f}" if abs(found - mean) > reach else ""


def by_axes(cells: list[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Cells that differ only in their seed, together."""
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple(cell[axis] for axis in AXES if cell.get(axis) is not None)].append(cell)
    return dict(groups)
