"""Decode: encoded images become uint8 arrays of one size, once; they are kept, memory-mapped."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import BadInput, NotFound, StoreError, notice
from ...files import cache_directory, draft
from ...pictures import picture_in
from ..mapped import array_in
from .parts import Part, Read, Splits, Tables, checked, reading, shape_of, whole_numbers
from .tables import no_bars

_CACHE_FORMAT = 3  # raise it when what is kept changes
_DTYPES = {"U8": np.uint8, "I64": np.int64}  # of what is kept, by safetensors' names
ORIENTATION = 0x0112  # the EXIF tag: how a camera was held
LABELS = ("label", "labels", "fine_label", "target", "class", "y")  # columns of class numbers without names
BATCH = 16  # images that a thread decodes at a time
ABANDONED = 3600  # seconds after which a half-written file has no writer any more


def decoded(
    tables: Tables, size: int | None, channels: int | None, cache: Path | None, group: str | None = None
) -> Splits:
    """Decode `tables`, or take what an earlier call kept."""
    recipe = {"format": _CACHE_FORMAT, "source": tables.fingerprint, "split": tables.split}
    recipe |= {"size": size, "channels": channels, "group": group}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    home, file = Path(cache or cache_directory() / "images"), f"{tables.name.replace('/', '--')}-{key}.safetensors"

    def made(folder: Path) -> Splits:
        for left in folder.glob(f".{glob.escape(file)}.*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink(missing_ok=True)
        with draft(folder / file) as beside:
            _write(beside, tables, size, channels, group, recipe)
            return checked(tables.name, _mapped(beside))  # before it is kept

    if tables.fingerprint is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is not there, or not whole
            return checked(tables.name, _mapped(home / file))
        with suppress(StoreError):  # a folder that cannot be written is no failure: the next call decodes again
            return made(home)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        return made(Path(scratch))  # what is mapped outlives its name


def _mapped(file: Path) -> Read:
    """What `_write` wrote, mapped; ValueError, KeyError or TypeError if it is something else, or not whole."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(min(length, file.stat().st_size)))

    def part(split: str) -> Part:
        arrays = {}
        for field in Part._fields:
            if at := header.get(f"{split}.{field}"):
                start = 8 + length + at["data_offsets"][0]
                arrays[field] = array_in(file, _DTYPES[at["dtype"]], at["shape"], start)
        return Part(**arrays)

    classes = json.loads(header["__metadata__"]["distrust"])["classes"]
    return Read(part("train"), part("test"), classes and tuple(classes))


def _write(
    file: Path, tables: Tables, size: int | None, channels: int | None, group: str | None, recipe: dict[str, object]
) -> None:
    """Decode `tables` into a safetensors file, a few images at a time.

    By hand, because the library wants every tensor whole. How many images there are shows at the end, so the header,
    which comes first, is written last, into a room that is wide enough.
    """
    with no_bars(), file.open("wb") as out:
        with reading(tables.name):
            opened = zip(Splits._fields, tables.open(), strict=True)
            parts = {
                split: _Pictures(table, f"{tables.name}: {split}", size, channels, group) for split, table in opened
            }
        classes, others = (part.classes for part in parts.values())
        if classes != others:
            raise BadInput(f"{tables.name}: train and test name their classes differently. Use the same names in both.")
        header: dict[str, Any] = {"__metadata__": {"distrust": json.dumps({**recipe, "classes": classes})}}
        room = len(json.dumps(header)) // 8 * 8 + 1024

        def put(name: str, dtype: str, rows: Iterable[np.ndarray]) -> None:
            start, count, shape = out.tell(), 0, ()
            for row in rows:
                out.write(row.data)
                count, shape = count + 1, row.shape
            offsets = [start - room - 8, out.tell() - room - 8]
            header[name] = {"dtype": dtype, "shape": [count, *shape], "data_offsets": offsets}

        out.seek(8 + room)
        for split, part in parts.items():
            put(f"{split}.x", "U8", part)
        if rest := out.tell() % 8:
            put("blank", "U8", np.zeros(8 - rest, np.uint8))  # numbers of 8 bytes begin at multiples of 8
        for split, part in parts.items():
            put(f"{split}.y", "I64", part.labels())
            if (ids := part.ids()) is not None:
                put(f"{split}.group", "I64", ids)
        out.seek(0)
        out.write(room.to_bytes(8, "little") + json.dumps(header).encode().ljust(room))


class _Pictures:
    """The images of a `datasets` table, decoded in order by as many threads as there are cores.

    Only a few images a thread are held at a time. When all have been taken, `labels` and `ids` tell the rest.

    Args:
        table: with an image column, a label column and perhaps a group column.
        where: source and split, for messages.
        size: as in `images`.
        channels: as in `images`.
        group: as in `images`.
    """

    def __init__(self, table: Any, where: str, size: int | None, channels: int | None, group: str | None) -> None:
        from datasets import ClassLabel
        from datasets import Image as ImageColumn

        features = table.features
        image = next((name for name, kind in features.items() if isinstance(kind, ImageColumn) or _is_struct(kind)), "")
        several = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
        label = next((name for name in (*several, *LABELS) if name in features), "")
        if not image or not label:
            missing = "label" if image else "image"
            raise BadInput(f"{where}: no {missing} column among {', '.join(features)}. Call one {missing}.")
        if len(several) > 1:
            notice(f"{where}: labels are those of the column {label}; {', '.join(several[1:])} is left aside.")
        if group is not None and group not in features:
            raise NotFound.among("column", group, features)
        self.group = group or next((name for name in ("group", "track") if name in features), None)
        names = features[label].names if isinstance(features[label], ClassLabel) else None
        self.classes = tuple(names) if names else None
        table = table.cast_column(image, ImageColumn(decode=False))
        self.table = table.select_columns([image, label, *([self.group] if self.group else [])])
        self.image, self.label, self.where = image, label, where
        self.moving: list[str] = []  # pictures of several frames, as threads find them
        self.read = partial(_read_rows, where=where, size=size, channels=channels, moving=self.moving)
        self.y: list[Any] = []
        self.groups: list[Any] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        first = None
        for cells, start, pictures in self._batches():
            for row, one in enumerate(pictures):
                first = one if first is None else first
                if one.shape != first.shape:
                    raise BadInput(
                        f"{self.where} image {start + row} ({cells[row]['path']}) is {shape_of(one)}, but the "
                        f"first is {shape_of(first)}; pass size= or channels= to make them equal."
                    )
                yield one
        if first is None:
            raise BadInput(f"{self.where} split is empty. Give at least one image.")
        if self.moving:
            notice(
                f"{self.where}: of pictures with several frames the first is taken ({len(self.moving)} in all, such as "
                f"{min(self.moving)})."
            )

    def _batches(self) -> Iterator[tuple[list[dict[str, Any]], int, list[np.ndarray]]]:
        workers = os.cpu_count() or 1
        waiting: deque[tuple[list[dict[str, Any]], int, Future[list[np.ndarray]]]] = deque()
        with reading(self.where), ThreadPoolExecutor(workers) as pool:  # Pillow lets go of the interpreter's lock
            for batch in self.table.iter(batch_size=BATCH):
                cells, start = batch[self.image], len(self.y)
                self.y += batch[self.label]
                self.groups += batch[self.group] if self.group else []
                waiting.append((cells, start, pool.submit(self.read, cells, start)))
                if len(waiting) > 2 * workers:
                    cells, start, made = waiting.popleft()
                    yield cells, start, made.result()
            while waiting:
                cells, start, made = waiting.popleft()
                yield cells, start, made.result()

    def labels(self) -> np.ndarray:
        """Int64 [N]."""
        if None in self.y:
            raise BadInput(f"{self.where}: image {self.y.index(None)} has no label. Leave such images out.")
        several = any(isinstance(label, list) for label in self.y)
        return whole_numbers(np.empty((0, 2)) if several else np.array(self.y), self.where)

    def ids(self) -> np.ndarray | None:
        """Int64 [N], or None: no two images belong together."""
        scope = self.y if self.group == "track" else [0] * len(self.y)
        return _groups(self.groups, scope) if self.group else None


def _is_struct(kind: object) -> bool:
    """Whether a column holds encoded images without saying so."""
    return isinstance(kind, dict) and {"bytes", "path"} <= set(kind)


def _read_rows(
    cells: list[dict[str, Any]], first: int, *, where: str, size: int | None, channels: int | None, moving: list[str]
) -> list[np.ndarray]:
    """Decode some images, the first of which is row `first` of its split."""
    pictures = []
    for row, cell in enumerate(cells, first):
        try:
            encoded = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
            with picture_in(encoded, cell["path"]) as picture:
                pictures.append(np.ascontiguousarray(picture_array(picture, size, channels)))
                if getattr(picture, "is_animated", False) and picture.format != "MPO":  # a photo with its preview
                    moving.append(str(cell["path"]))
        except BadInput as error:  # too many pixels
            raise BadInput(f"{where} image {row}: {error}") from None
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, …
            path = cell["path"] if cell else "no image"
            why = _start(cell) if isinstance(error, UnidentifiedImageError) else error
            raise BadInput(f"{where} image {row} ({path}) cannot be read: {why}. Replace or remove it.") from error
    return pictures


def _start(cell: dict[str, Any]) -> str:
    """What a file is that is no picture, by how it begins."""
    start = (Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"])[:64].lstrip()
    known = {
        b"version https://git-lfs": "it is a Git LFS pointer; fetch the file: git lfs pull",
        b"<": "it is a web page",
    }
    told = next((what for begin, what in known.items() if start.startswith(begin)), "Pillow knows no such picture")
    return told if start else "it is empty"


def picture_array(picture: Image.Image, size: int | None, channels: int | None) -> np.ndarray:
    """Decode one image to uint8 [C,H,W], as a viewer shows it: turned as its EXIF says, transparency on white."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        raise ValueError(f"its mode {picture.mode} has more than 8 bits per channel; convert it to 8 bits")
    if picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    gray = picture.mode in ("1", "L") if channels is None else channels == 1
    mode = "L" if gray else "RGB"
    picture = picture if picture.mode == mode else picture.convert(mode)  # which copies one of this mode too
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
