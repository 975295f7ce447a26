"""Tables of encoded images: class folders, folders of parquet files, and the hub. Found here, decoded elsewhere.

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

import numpy as np
from PIL import Image

from ...errors import BadInput, notice
from .parts import TEST, Tables, fixed_parts, train_and_test

SPLITS = {  # what people call the folder of a split, in lower case → the split
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "validation": "validation", "valid": "valid",
}  # fmt: skip


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
            return Tables(path.name, _fingerprint(path, [*pair[0], *pair[1]]), partial(_open_parquet, pair))
    return None


def _open_parquet(pair: tuple[list[Path], list[Path]]) -> tuple[Any, Any]:
    from datasets import load_dataset

    def stream(files: list[Path]) -> Any:  # streaming writes no second copy, only a lock into `cache_dir`
        names = [str(file) for file in files]
        return load_dataset("parquet", data_files=names, split="train", streaming=True, cache_dir=scratch)

    with tempfile.TemporaryDirectory() as scratch:
        return stream(pair[0]), stream(pair[1])


def find_folder(path: Path) -> Tables:
    """The tables of a folder of class folders, with or without a split.

    Split folders are known whatever their case, `Train` and `testing` too. A folder without a picture in any split is
    no class; those left out are told.
    """
    split = "as given"
    if named := _splits(path):
        folders = [_by_class(part) for part in train_and_test(named, path)]
        for which, part in zip(named, folders, strict=False):
            if not any(part.values()) and (loose := len(list(_files(named[which])))):
                raise BadInput(
                    f"{path}: {which} holds {loose} pictures, but no class folders. Sort them into one folder a class."
                )
        classes = _classes(path, [name for part in folders for name, files in part.items() if files], folders)
        if unknown := [name for name in classes if not folders[0].get(name)]:
            raise BadInput(f"{path}: class {', '.join(unknown)} is in test but not in train. Add or remove its folder.")
        rows = [[(file, k) for k, name in enumerate(classes) for file in part.get(name, [])] for part in folders]
    else:
        found = _by_class(path)
        if not any(found.values()) and (alone := list(_files(path))):
            found = {"unlabelled": alone}  # as a defender of an encoder has them
        classes = _classes(path, [name for name, files in found.items() if files], [found])
        if not classes:
            raise BadInput(
                f"{path} holds no images that are known here: neither train.parquet and test.parquet, nor "
                "IDX files, nor folders train/<class>/ and test/<class>/ with images in them, nor images alone."
            )
        rows = [[(file, k) for k, name in enumerate(classes) for file in found[name]]]
        split = "stratified, 20 % to test, sklearn train_test_split(random_state=0) over the sorted files"

    def tables() -> tuple[Any, Any]:
        import datasets

        features = datasets.Features(image=datasets.Image(decode=False), label=datasets.ClassLabel(names=classes))

        def table(part: list[tuple[str, int]]) -> Any:
            cells = [{"path": file, "bytes": None} for file, _ in part]
            return datasets.Dataset.from_dict({"image": cells, "label": [k for _, k in part]}, features=features)

        if len(rows) == 2:
            return table(rows[0]), table(rows[1])
        parts = fixed_parts(np.arange(len(rows[0])), np.array([k for _, k in rows[0]]), 0.2, path)
        return table([rows[0][row] for row in parts[0].x]), table([rows[0][row] for row in parts[1].x])

    files = _fingerprint(path, [file for part in rows for file, _ in part])
    return Tables(path.name, [*files, classes], tables, split)  # a class may have no file


def _splits(path: Path) -> dict[str, str]:
    """Which folder is which split, by the names that people give them; {} where there are class folders alone."""
    found: dict[str, str] = {}
    for child in _visible(path):
        name = SPLITS.get(child.name.lower())
        if name and child.is_dir():
            if name in found:
                raise BadInput(f"{path}: {os.path.basename(found[name])} and {child.name} are both {name}. Keep one.")
            found[name] = child.path
    return found


def _classes(path: Path, names: Iterable[str], folders: Iterable[dict[str, list[str]]]) -> list[str]:
    """The classes in their order: that of a file classes.txt, else of numbers where all are, else of the alphabet."""
    classes = sorted(set(names))
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    empty = sorted({name for part in folders for name in part} - {*classes})
    if empty:
        notice(f"{path}: folders without a picture are no classes and are left out: {', '.join(empty)}.")
    listed = path / "classes.txt"
    if not listed.is_file():
        return classes
    order = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    if sorted(order) != sorted(classes):
        apart = ", ".join(sorted({*order} ^ {*classes})) or "a name stands there twice"
        raise BadInput(f"{listed} does not list the folders of classes: {apart}. Write one name a line.")
    return order


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, in sorted order; entries know what they are, paths would ask the disk again."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _by_class(folder: str | Path) -> dict[str, list[str]]:
    """Class name → image files, both in sorted order."""
    # By hand, because `datasets`' imagefolder guesses splits and labels from every folder name on the way:
    # of a class named "train", the test images would be read as training images too.
    return {child.name: list(_files(child.path)) for child in _visible(folder) if child.is_dir()}


def _files(at: str | Path) -> Iterator[str]:
    known = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for child in _visible(at):
        if child.is_dir():
            yield from _files(child.path)
        elif os.path.splitext(child.name)[1].lower() in known:
            yield child.path


def _fingerprint(root: Path, files: Iterable[str | Path]) -> list[object]:
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
