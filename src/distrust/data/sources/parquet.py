"""Parquet: a folder of files in Hugging Face layout."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from .cache import fingerprint
from .parts import TEST, Tables, train_and_test


def find_parquet(path: Path) -> Tables | None:
    """The tables of a folder of parquet files; None if it holds none."""
    for folder in (path, path / "data"):
        shards = {
            name: [*folder.glob(f"{name}.parquet"), *sorted(folder.glob(f"{name}-*.parquet"))]
            for name in ("train", *TEST)
        }
        shards = {name: files for name, files in shards.items() if files}
        if shards:
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
