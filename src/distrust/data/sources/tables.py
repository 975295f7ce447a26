"""Tables of encoded images: folders of parquet files, and the hub. Found here, decoded elsewhere.

`datasets` is imported inside functions: it takes a second, and what is kept decoded does without it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import BadInput
from .parts import TEST, Tables, train_and_test


def find_hub(asked: str) -> Tables:
    """The tables of `hub:owner/name[@revision]`."""
    from datasets import load_dataset

    name, _, revision = asked.removeprefix("hub:").partition("@")
    try:
        with no_bars():
            tables = load_dataset(name, revision=revision or None)
    except Exception as error:  # each layer below (datasets, the hub, its HTTP client) has errors of its own
        raise BadInput(
            f"{asked} could not be loaded ({type(error).__name__}: {error}). Check the name and the network, "
            "or download it and give its folder."
        ) from error
    pair = train_and_test(tables, asked)
    sums = [table.info.download_checksums for table in pair]  # addresses that hold the commit
    return Tables(name, [name, revision, sums] if all(sums) else None, lambda: pair)


def find_parquet(path: Path) -> Tables | None:
    """The tables of a folder of parquet files; None if it holds none."""
    for folder in (path, path / "data"):
        every = {n: [*folder.glob(f"{n}.parquet"), *sorted(folder.glob(f"{n}-*.parquet"))] for n in ("train", *TEST)}
        if shards := {name: found for name, files in every.items() if (found := [f for f in files if f.is_file()])}:
            pair = train_and_test(shards, path)
            return Tables(path.name, fingerprint(path, [*pair[0], *pair[1]]), partial(_open_parquet, pair))
    return None


def _open_parquet(pair: tuple[list[Path], list[Path]]) -> tuple[Any, Any]:
    from datasets import Features
    from pyarrow.parquet import read_schema

    first, second = (_Rows(files, Features.from_arrow_schema(read_schema(files[0]))) for files in pair)
    return first, second


class _Rows:
    """Rows of parquet files, a few at a time, with the face of a `datasets` table, whose own reader asks a host.

    Pictures stay encoded; one that is a path and no bytes is empty, or the table would choose what is opened here.
    """

    def __init__(self, files: list[Path], features: Any, names: list[str] | None = None) -> None:
        self.files, self.features, self.names = files, features, names

    def cast_column(self, name: str, kind: Any) -> _Rows:
        return self

    def select_columns(self, names: list[str]) -> _Rows:
        return _Rows(self.files, self.features, names)

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        from pyarrow.parquet import ParquetFile

        for file in self.files:
            with ParquetFile(file) as table:
                if missing := [name for name in self.names or () if name not in table.schema_arrow.names]:
                    raise BadInput(f"{file} has no column {missing[0]}, as {self.files[0].name} does. Fetch it again.")
                for batch in table.iter_batches(batch_size, columns=self.names):
                    columns = batch.to_pydict()
                    for cell in (cell for column in columns.values() for cell in column if isinstance(cell, dict)):
                        cell["bytes"] = cell["bytes"] or b""
                    yield columns


def fingerprint(root: Path, files: Iterable[str | Path]) -> list[object]:
    """What changes when the files do: their names, sizes and times."""
    stats, start = ((os.fspath(file), os.stat(file)) for file in files), len(os.path.join(root, ""))
    states = [(file[start:], stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    return [str(root.resolve()), hashlib.sha256(json.dumps(states).encode()).hexdigest()]


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep `datasets` and the hub from drawing progress bars; leave their settings as they were."""
    import datasets
    import huggingface_hub.utils as hub

    with ExitStack() as after:
        for library in (datasets, hub):
            if not library.are_progress_bars_disabled():
                library.disable_progress_bars()
                after.callback(library.enable_progress_bars)
        yield
