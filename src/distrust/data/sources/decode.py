"""Decode: encoded images become uint8 arrays of one size, once; they are kept, memory-mapped."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...errors import BadInput, NotFound
from ...files import cache_directory, draft
from ...tensors import read_record
from .parts import Part, Read, Splits, Tables, checked, shape_of
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


def decode_table(
    table: Any, where: str, size: int | None, channels: int | None, group: str | None
) -> tuple[Part, tuple[str, ...] | None]:
    """Decode every image of a `datasets` table.

    Args:
        table: with an image column, a label column and perhaps a group column.
        where: source and split, for messages.
        size: as in `images`.
        channels: as in `images`.
        group: as in `images`.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageColumn

    features = table.features
    image = next((name for name, kind in features.items() if isinstance(kind, ImageColumn) or _is_struct(kind)), None)
    label = next((name for name, kind in features.items() if isinstance(kind, ClassLabel)), "label")
    if image is None or label not in features:
        missing = "image" if image is None else "label"
        raise BadInput(f"{where}: no {missing} column among {', '.join(features)}. Add or rename one.")
    if group is not None and group not in features:
        raise NotFound.among("column", group, features)
    group = group or next((name for name in ("group", "track") if name in features), None)
    names = features[label].names if isinstance(features[label], ClassLabel) else None

    table = table.cast_column(image, ImageColumn(decode=False))
    table = table.select_columns([image, label, *([group] if group else [])])
    x: list[np.ndarray] = []
    y: list[int] = []
    groups: list[object] = []
    read = partial(_read_rows, where=where, size=size, channels=channels)
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter's lock while it decodes
        for batch in table.iter(batch_size=1024):
            cells, starts = batch[image], range(0, len(batch[image]), 64)
            parts = pool.map(read, (cells[at : at + 64] for at in starts), (len(y) + at for at in starts))
            for row, one in enumerate(chain.from_iterable(parts)):
                x.append(one)
                if one.shape != x[0].shape:
                    raise BadInput(
                        f"{where} image {len(y) + row} ({cells[row]['path']}) is {shape_of(one)}, but the "
                        f"first is {shape_of(x[0])}; pass size= or channels= to make them equal."
                    )
            y += batch[label]
            groups += batch[group] if group else []
    if not y:
        raise BadInput(f"{where} split is empty. Give at least one image.")
    ids = _groups(groups, y if group == "track" else [0] * len(y)) if group else None
    return Part(np.stack(x), np.array(y), ids), tuple(names) if names else None


def _is_struct(kind: object) -> bool:
    """Whether a column holds encoded images without saying so."""
    return isinstance(kind, dict) and {"bytes", "path"} <= set(kind)


def _read_rows(
    cells: list[dict[str, Any]], first: int, *, where: str, size: int | None, channels: int | None
) -> list[np.ndarray]:
    """Decode some images, the first of which is row `first` of its split."""
    pictures = []
    for row, cell in enumerate(cells, first):
        try:
            with Image.open(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])) as picture:
                pictures.append(np.ascontiguousarray(picture_array(picture, size, channels)))
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, …
            path = cell["path"] if cell else "no image"
            raise BadInput(f"{where} image {row} ({path}) cannot be read: {error}. Replace or remove it.") from error
    return pictures


def picture_array(picture: Image.Image, size: int | None, channels: int | None) -> np.ndarray:
    """Decode one image to uint8 [C,H,W]."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        raise ValueError(f"its mode {picture.mode} has more than 8 bits per channel")
    gray = picture.mode in ("1", "L") if channels is None else channels == 1
    picture = picture.convert("L" if gray else "RGB")
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    x = np.asarray(picture)
    return x[None] if gray else x.transpose(2, 0, 1)


def fitted(x: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Resize [N,C,H,W] and change its channels, as `picture_array` does for one image.

    The layout in memory stays Pillow's, channels last: a convolution of another layout rounds otherwise.
    """
    if 0 in x.shape or (channels in (None, x.shape[1]) and (size is None or x.shape[2:] == (size, size))):
        return x
    pictures = (Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0)) for one in x)
    return np.stack([picture_array(picture, size, channels) for picture in pictures])


def _groups(values: Iterable[Any], scope: Iterable[int]) -> np.ndarray | None:
    """Group ids int64 [N], equal where value and scope are; None if no two images share one."""
    ids: dict[object, int] = {}
    rows = []
    for row, (value, within) in enumerate(zip(values, scope, strict=True)):
        alone = value is None or (not isinstance(value, str) and value < 0)
        rows.append(ids.setdefault(("alone", row) if alone else (within, value), len(ids)))
    return np.array(rows) if len(ids) < len(rows) else None
