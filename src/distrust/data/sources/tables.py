"""Tables of encoded images: folders of parquet files, and the hub. Found here, decoded elsewhere.

`datasets` is imported inside functions: it takes a second, and what is kept decoded does without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
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
        if shards := {name: files for name, files in every.items() if files}:
            pair = train_and_test(shards, path)
            return Tables(path.name, fingerprint(path, [*pair[0], *pair[1]]), partial(_open_parquet, pair))
    return None


def _open_parquet(pair: tuple[list[Path], list[Path]]) -> tuple[Any, Any]:
    from datasets import load_dataset

    def stream(files: list[Path]) -> Any:  # streaming writes no second copy, only a lock into `cache_dir`
        names = [str(file) for file in files]
        return load_dataset("parquet", data_files=names, split="train", streaming=True, cache_dir=scratch)

    with tempfile.TemporaryDirectory() as scratch:
        return stream(pair[0]), stream(pair[1])


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
