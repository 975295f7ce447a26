"""Cache: encoded images are decoded once and kept, memory-mapped."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...errors import BadInput, NotFound
from ...files import cache_directory, draft, read_record
from .decode import decode_table
from .parts import Part, Read, Splits, Tables, checked
from .tables import no_bars

_CACHE_FORMAT = 2  # raise it when what is kept changes


def decoded(
    tables: Tables, size: int | None, channels: int | None, cache: Path | None, group: str | None = None
) -> Splits:
    """Decode `tables`, or take what an earlier call kept."""
    recipe = {"format": _CACHE_FORMAT, "source": tables.fingerprint, "split": tables.split}
    recipe |= {"size": size, "channels": channels, "group": group}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    home = Path(cache or cache_directory() / "images")
    file = home / f"{tables.name.replace('/', '--')}-{key}.safetensors"
    if tables.fingerprint is not None and (kept := _load(file)):
        return checked(tables.name, kept)
    try:
        with no_bars():
            train, test = tables.open()
            of_train, classes = decode_table(train, f"{tables.name}: train", size, channels, group)
            of_test, others = decode_table(test, f"{tables.name}: test", size, channels, group)
    except (BadInput, NotFound):
        raise
    except (OSError, ValueError) as error:  # a broken parquet file
        raise BadInput(f"{tables.name} cannot be read ({error}). Fetch or write it again.") from error
    if classes != others:
        raise BadInput(f"{tables.name}: train and test name their classes differently. Use the same names in both.")
    read = Read(of_train, of_test, classes)
    splits = checked(tables.name, read)  # checked before it is kept
    if tables.fingerprint is not None:
        _save(file, read, recipe)
    return splits


def _load(file: Path) -> Read | None:
    """What `_save` wrote, memory-mapped copy-on-write; None if it is not there or not whole."""
    with suppress(OSError, SafetensorError, KeyError):
        arrays = {name: tensor.numpy() for name, tensor in load_file(file).items()}
        train, test = (Part(arrays[f"{p}.x"], arrays[f"{p}.y"], arrays.get(f"{p}.group")) for p in Splits._fields)
        classes = read_record(file)["classes"]
        return Read(train, test, classes and tuple(classes))
    return None


def _save(file: Path, read: Read, recipe: dict[str, object]) -> None:
    """Keep `read`. A folder that cannot be written (read-only, full) is no failure: the next call decodes again."""
    tensors = {
        f"{name}.{field}": torch.from_numpy(array)
        for name, part in zip(Splits._fields, read[:2], strict=True)
        for field, array in part._asdict().items()
        if array is not None
    }
    with suppress(OSError), draft(file) as beside:
        save_file(tensors, beside, {"distrust": json.dumps({**recipe, "classes": read.classes})})
