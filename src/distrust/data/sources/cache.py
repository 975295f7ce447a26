"""Cache: encoded images are decoded once and kept as memory-mapped arrays."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...errors import BadInput, NotFound
from .decode import decode_table
from .hub import no_bars
from .parts import Part, Read, Splits, Tables, checked

_CACHE_FORMAT = 1  # raise it when what is kept changes


def fingerprint(root: Path, files: Iterable[Path]) -> list[object]:
    """What changes when the files do: their names, sizes and times."""
    states = [(str(file.relative_to(root)), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return [str(root.resolve()), hashlib.sha256(json.dumps(states).encode()).hexdigest()]


def decoded(
    tables: Tables, size: int | None, channels: int | None, cache: Path | None, group: str | None = None
) -> Splits:
    """Decode `tables`, or take what an earlier call kept."""
    home = Path(cache or os.environ.get("DISTRUST_CACHE") or Path("~/.cache/distrust/images").expanduser())
    recipe = {"format": _CACHE_FORMAT, "source": tables.fingerprint, "split": tables.split}
    recipe |= {"size": size, "channels": channels, "group": group}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    stem = f"{tables.name.replace('/', '--')}-{key}"
    if tables.fingerprint is not None and (kept := _load(home, stem)):
        return checked(tables.name, kept)

    parts, names = [], []
    try:
        with no_bars():
            for table, part in zip(tables.open(), Splits._fields, strict=True):
                decoded, classes = decode_table(table, f"{tables.name}: {part}", size, channels, group)
                parts.append(decoded)
                names.append(classes)
    except (BadInput, NotFound):
        raise
    except (OSError, ValueError) as error:  # a broken parquet file
        raise BadInput(f"{tables.name} cannot be read ({error}). Fetch or write it again.") from error
    if names[0] != names[1]:
        raise BadInput(f"{tables.name}: train and test name their classes differently. Use the same names in both.")
    read = Read(parts[0], parts[1], names[0])
    splits = checked(tables.name, read)  # checked before it is kept
    if tables.fingerprint is not None:
        _save(home, stem, read, recipe)
    return splits


def _load(home: Path, stem: str) -> Read | None:
    """What `_save` wrote, memory-mapped copy-on-write; None if it is not there or not whole."""
    try:
        record = json.loads((home / f"{stem}.json").read_text())
        train, test = (
            Part(
                np.load(home / f"{stem}-{part}.npy", mmap_mode="c"),
                np.array(record[part]["y"]),
                None if record[part]["group"] is None else np.array(record[part]["group"]),
            )
            for part in Splits._fields
        )
        return Read(train, test, record["classes"] and tuple(record["classes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(home: Path, stem: str, read: Read, recipe: dict[str, object]) -> None:
    """Keep `read` as two .npy files and, last, the .json that makes them count; each appears whole or not.

    A folder that cannot be written (read-only, full) is no failure: the next call decodes again.
    """
    record: dict[str, object] = {**recipe, "classes": read.classes}
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".writing-") as folder:
            for name, part in zip(Splits._fields, read[:2], strict=True):
                np.save(Path(folder) / f"{stem}-{name}.npy", part.x)
                record[name] = {
                    "y": part.y.tolist(),
                    "group": None if part.group is None else part.group.tolist(),
                }
            (Path(folder) / f"{stem}.json").write_text(json.dumps(record))
            for end in ("-train.npy", "-test.npy", ".json"):
                os.replace(Path(folder) / (stem + end), home / (stem + end))
