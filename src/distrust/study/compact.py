"""Compact: the cells of a large folder in one Parquet file of the cache directory, so that they are read at once.

The cells' own files stay the truth: a row counts only while the file behind it has the size and the time that it had,
and while the code that validated it is the same. A folder's columns can be asked in SQL (extra `distrust[query]`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import BadInput, NotFound, StoreError
from ..files import cache_directory, code, draft
from .axes import AXES

Read = Callable[[Iterable[Path]], Iterator[tuple[Path, Any]]]

TEXTS = ("id", "study", "budget", *AXES, "state", "error")
HIDDEN = ("file", "size", "mtime_ns", "cell")
MANY = 1000  # cells that are read as one list, so that they share the names of their fields
JUST_NOW = 2_000_000_000  # nanoseconds: what changed since then may change again without its time showing it
NUMBERS = ("seed", "place", "target", "n", "seconds")


def table_of(folder: Path, read: Read, numbers: Iterable[str]) -> tuple[pa.Table, dict[str, str]]:
    """The cells of a folder as rows, by name of the file, and what is wrong with files that are none.

    Args:
        folder: of JSON files.
        read: files → each with its cell, or with why it is none.
        numbers: fields of cells that are numbers.
    """
    schema = _schema(numbers)
    with os.scandir(folder) as entries:
        there = {entry.name: _stamp(entry) for entry in entries if entry.name.endswith(".json")}
    kept = _kept(folder, schema)
    names, sizes, stamps = (kept[name].to_pylist() for name in ("file", "size", "mtime_ns"))
    same = [there.get(name) == (size, stamp) for name, size, stamp in zip(names, sizes, stamps, strict=True)]
    known = {name for name, good in zip(names, same, strict=True) if good}
    found = list(read(folder / name for name in sorted(there.keys() - known)))
    if found or len(known) < len(names):
        rows = [(file.name, *there[file.name], cell) for file, cell in found if isinstance(cell, dict)]
        kept = pa.concat_tables([kept.filter(pa.array(same, pa.bool_())), _rows(rows, schema)]).sort_by("file")
        _keep(folder, kept.filter(pc.less(kept["mtime_ns"], time.time_ns() - JUST_NOW)))
    return kept, {file.name: why for file, why in found if isinstance(why, str)}


def cells_of(table: pa.Table) -> list[dict[str, Any]]:
    """The cells behind rows; of many read as one list, field names are shared."""
    return [
        cell
        for some in table["cell"].chunks
        for at in range(0, len(some), MANY)
        for cell in json.loads(f"[{','.join(some[at : at + MANY].to_pylist())}]")
    ]


def where(table: pa.Table, condition: str) -> pa.Table:
    """The rows for which a condition in SQL holds, e.g. `asr > 0.5 and defense = 'nad'`; it reaches no files.

    Raises:
        NotFound: DuckDB is not installed.
        BadInput: it is no condition on these columns.
    """
    try:
        import duckdb
    except ImportError:
        raise NotFound("a condition needs DuckDB, which is not here. Type: pip install 'distrust[query]'.") from None
    columns = [name for name in table.column_names if name not in HIDDEN]
    shown = table.select(columns).append_column("row", pa.array(range(len(table)), pa.int64()))
    with duckdb.connect(":memory:") as base:
        base.execute("SET enable_external_access = false; SET python_enable_replacements = false")
        base.execute("SET lock_configuration = true")
        try:
            rows = base.from_arrow(shown).filter(condition).project("row").fetchall()
        except duckdb.Error as error:
            said = str(error).strip().splitlines()[0].rstrip(".")
            raise BadInput(f"where {condition!r}: {said}. Columns: {', '.join(columns)}.") from None
    return table.take(pa.array(sorted(row for (row,) in rows), pa.int64()))


def _schema(numbers: Iterable[str]) -> pa.Schema:
    numbers = sorted({*numbers, *NUMBERS} - {*TEXTS, *HIDDEN})
    fields = [("file", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("cell", pa.string())]
    fields += [(name, pa.string()) for name in TEXTS]
    fields += [(name, pa.float64()) for name in numbers]
    fields += [("flags", pa.list_(pa.string()))]
    return pa.schema(fields, {"code": code()})


def _rows(found: list[tuple[str, int, int, dict[str, Any]]], schema: pa.Schema) -> pa.Table:
    cells = [cell for *_, cell in found]
    columns: dict[str, list[Any]] = {"cell": [json.dumps(cell, ensure_ascii=False) for cell in cells]}
    columns |= {name: [row[at] for row in found] for at, name in enumerate(HIDDEN[:3])}
    for field in schema:
        if field.name not in columns:
            values = (cell.get(field.name) for cell in cells)
            number = pa.types.is_floating(field.type)
            columns[field.name] = [None if v is None else float(v) for v in values] if number else list(values)
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema)


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        found = entry.stat()
    except OSError:  # a link that leads nowhere
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _file(folder: Path) -> Path:
    return cache_directory() / "cells" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.parquet"


def _kept(folder: Path, schema: pa.Schema) -> pa.Table:
    """What was kept of a folder by this code; nothing if that cannot be read."""
    with contextlib.suppress(OSError, pa.ArrowException):
        table = pq.read_table(_file(folder))
        if table.schema.equals(schema) and table.schema.metadata == schema.metadata:
            return table
    return schema.empty_table()


def _keep(folder: Path, table: pa.Table) -> None:
    with contextlib.suppress(StoreError), draft(_file(folder)) as file:  # nowhere to keep it: it is read each time
        pq.write_table(table, file, compression="zstd")
