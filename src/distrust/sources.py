"""Where images come from: a bundled set, files of four kinds and the hub, each read into two ImageSets."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from .errors import BadInput, NotFound, UnsafeFile
from .imageset import ImageSet

# `datasets` is imported inside functions: it takes a second, and most sources do without it.

T = TypeVar("T")
_TEST = ("test", "val", "validation", "valid")  # names of the split that serves as test, the first found
_NPZ = (("images", "labels"), ("x", "y"))  # keys of an .npz without a split
_CACHE_FORMAT = 1


class Splits(NamedTuple):
    """The two parts of a source."""

    train: ImageSet
    test: ImageSet


class _Part(NamedTuple):
    x: np.ndarray  # uint8 [N,C,H,W]
    y: np.ndarray  # int64 [N]
    group: np.ndarray | None = None  # int64 [N]


class _Read(NamedTuple):
    train: _Part
    test: _Part
    classes: tuple[str, ...] | None = None  # None: numbered


class _Tables(NamedTuple):
    """Encoded images, not decoded yet."""

    name: str
    fingerprint: object  # changes when the content does; None: unknown, so nothing is kept
    open: Callable[[], tuple[Any, Any]]  # the train and the test `datasets` table
    split: str = "as given"  # how train and test were told apart, for the cache's record


def images(
    source: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    cache: Path | None = None,
    group: str | None = None,
) -> Splits:
    """Read the training and the test images of `source`.

    - `"digits"`: scikit-learn's 8×8 digits, by default 3×16×16; fixed stratified test split of 25 %.
    - A name such as `"cifar10"`: a folder or .npz in the folder that the environment variable
      `DISTRUST_DATA` names; else a path.
    - A folder of parquet files `train*.parquet` and `test*.parquet` (or `data/train*.parquet`, …) in Hugging
      Face layout. A column `group` or `track` names images that must not be split apart: group ids are unique
      in the whole split, track numbers only within a class; a negative or missing one belongs to no group.
    - A folder `train/<class>/*.png|jpg|…` and `test/<class>/…`, searched recursively, in sorted order; hidden
      and other files are ignored. With class folders alone: a fixed stratified split, 80 % to train.
    - A folder of IDX files: `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, …, plain or .gz.
    - An `.npz` file with `x_train, y_train, x_test, y_test`, or `images, labels` or `x, y` (then a fixed
      stratified split, 80 % to train), and perhaps `classes`. Images are NHWC, NCHW or NHW, uint8 0..255 or
      float 0..1 (rounded to 8 bits).
    - `"hub:owner/name"` or `"hub:owner/name@revision"`: a Hugging Face data set; its first image and first
      class column are used.

    A split called `val`, `validation` or `valid` serves as test where there is no `test`. Encoded images are
    decoded once and kept as memory-mapped arrays in the cache.

    Args:
        source: one of the above.
        size: side in pixels, to which every image is resized (PIL bilinear; a rectangle is squeezed); None
            leaves them as they are (digits: 16).
        channels: 1 (luminance) or 3 (a gray image is repeated); None leaves them as they are (digits: 3).
        cache: folder for decoded images (default: `DISTRUST_CACHE`, else `~/.cache/distrust/images`). If it
            cannot be written, nothing is kept.
        group: column of a parquet or hub source that holds the group ids.

    Returns:
        `Splits(train, test)`: uint8 [N,C,H,W] images, int64 labels, `index` 0..N-1 within each split.

    Raises:
        NotFound: there is no such source or column.
        BadInput: an image cannot be read, sizes or channels differ among the images, pixel values or labels
            are out of range, or a split is missing or empty.
        UnsafeFile: an .npz holds Python objects.
    """
    if channels not in (None, 1, 3) or (size is not None and size < 1):
        raise BadInput(f"size={size}, channels={channels}: give a size of 1 or more, and 1 or 3 channels.")
    asked = str(source)
    if asked.startswith("hub:"):
        return _decoded(_hub(asked), size, channels, cache, group)
    path = None if asked == "digits" else _locate(source)
    if path and (tables := _parquet(path)):
        return _decoded(tables, size, channels, cache, group)
    if group:
        raise BadInput(f"group={group!r} names a column, but {asked} has no columns; leave it out.")
    if path is None:
        return _splits("digits", _digits(size or 16, channels or 3))
    if path.is_file():
        return _splits(path.stem, _npz(path, size, channels))
    if files := _idx_files(path):
        return _splits(path.name, _idx(files, asked, size, channels))
    return _decoded(_folder(path), size, channels, cache)


def _locate(source: str | Path) -> Path:
    """The file or folder that `source` names, under `DISTRUST_DATA` first."""
    root = os.environ.get("DISTRUST_DATA")
    path = Path(source).expanduser()
    if root and isinstance(source, str) and (Path(root) / path).exists():
        return Path(root) / path
    if path.exists():
        return path.resolve()  # so that "." has a name
    known = {"digits"}
    if root and Path(root).is_dir():
        known |= {entry.name for entry in Path(root).iterdir() if entry.is_dir() or entry.suffix == ".npz"}
    raise NotFound(
        f"{NotFound.among('image set', str(source), known)} Looked in DISTRUST_DATA ({root or 'not set'}) "
        f"and at {path.absolute()}. Set DISTRUST_DATA to the folder that holds your image sets, or give a "
        "path or hub:owner/name."
    )


def _pair(found: Mapping[str, T], where: object) -> tuple[T, T]:
    """The train and the test entry of `found`, by split name."""
    test = next((name for name in _TEST if name in found), None)
    if "train" not in found or test is None:
        missing = "train" if "train" not in found else "test"
        raise BadInput(
            f"{where}: there is no {missing} split (found: {', '.join(found) or 'none'}). "
            f"Add one named {missing!r}."
        )
    return found["train"], found[test]


def _fixed_split(y: np.ndarray, test: float, where: object) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a stratified train and test part, the same for everyone."""
    from sklearn.model_selection import train_test_split

    try:
        parts = train_test_split(np.arange(len(y)), test_size=test, stratify=y, random_state=0)
    except ValueError as error:
        raise BadInput(
            f"{where}: no stratified test part can be cut off {len(y)} images ({error}). "
            "Give train and test apart."
        ) from error
    return np.sort(parts[0]), np.sort(parts[1])


def _splits(name: str, read: _Read) -> Splits:
    """Check what was read and wrap it."""
    sets = []
    for part, (x, y, group) in (("train", read.train), ("test", read.test)):
        if len(x) == 0:
            raise BadInput(f"{name}: the {part} split is empty. Give at least one image.")
        if y.dtype.kind not in "iu":
            raise BadInput(
                f"{name}: {part} labels must be whole numbers 0..K-1; got {y.dtype}. Number the classes."
            )
        sets.append((torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)), group))
    if read.train.x.shape[1:] != read.test.x.shape[1:]:
        raise BadInput(
            f"{name}: train images are {_shape(read.train.x[0])} but test images {_shape(read.test.x[0])}; "
            "pass size= or channels= to make them equal."
        )
    distinct = len(np.union1d(read.train.y, read.test.y))
    classes = read.classes or tuple(map(str, range(distinct)))
    return Splits(
        *(ImageSet(x, y, classes, name, group=None if g is None else torch.from_numpy(g)) for x, y, g in sets)
    )


def _shape(x: np.ndarray) -> str:
    return "×".join(map(str, x.shape))


# --- arrays: digits, .npz, IDX ------------------------------------------------------------------------------


def _digits(size: int, channels: int) -> _Read:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # values 0..16 -> 0..255
    x = _fit(x, size, channels, "digits")
    train, test = _fixed_split(bunch.target, 0.25, "digits")
    return _Read(_Part(x[train], bunch.target[train]), _Part(x[test], bunch.target[test]))


def _npz(path: Path, size: int | None, channels: int | None) -> _Read:
    if not zipfile.is_zipfile(path):
        raise BadInput(
            f"{path} is not an .npz archive. Give one, or a folder of images, parquet or IDX files."
        )

    def take(key: str) -> np.ndarray:
        try:
            return archive[key]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if "allow_pickle" in str(error):
                raise UnsafeFile(
                    f"{path}: {key!r} holds Python objects, which can run code when opened. Not loaded. "
                    "Save plain arrays of numbers."
                ) from error
            raise BadInput(f"{path}: {key!r} cannot be read ({error}). Save the file again.") from error

    def part(images: str, labels: str) -> _Part:
        y = take(labels)
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y  # Keras has [N,1]
        return _Part(_fit(_raw(take(images), f"{path} {images}"), size, channels, path), y)

    with np.load(path, allow_pickle=False) as archive:
        keys = set(archive)
        classes = tuple(map(str, take("classes"))) if "classes" in keys else None
        found = {name: name for name in ("train", *_TEST) if {f"x_{name}", f"y_{name}"} <= keys}
        if found:
            train, test = _pair(found, path)
            return _Read(part(f"x_{train}", f"y_{train}"), part(f"x_{test}", f"y_{test}"), classes)
        pair = next((pair for pair in _NPZ if set(pair) <= keys), None)
        if pair is None:
            raise BadInput(
                f"{path} holds {', '.join(sorted(keys)) or 'nothing'}; name its arrays x_train, y_train, "
                "x_test and y_test, or images and labels."
            )
        x, y, _ = part(*pair)
    if len(x) != len(y):
        raise BadInput(f"{path}: {len(x)} images but {len(y)} labels; give one label per image.")
    train_rows, test_rows = _fixed_split(y, 0.2, path)
    return _Read(_Part(x[train_rows], y[train_rows]), _Part(x[test_rows], y[test_rows]), classes)


def _raw(x: np.ndarray, where: str) -> np.ndarray:
    """Any usual array of images as uint8 [N,C,H,W]; [N,C,H,W] wins where both readings fit."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise BadInput(
            f"{where}: images must be [N,H,W], [N,H,W,C] or [N,C,H,W] with 1 or 3 channels; got "
            f"{list(x.shape)}. Reshape them."
        )
    if x.dtype.kind == "f" and x.size:
        low, high = float(x.min()), float(x.max())
        if not 0 <= low <= high <= 1:
            if not np.isfinite(low + high):
                advice = "Some values are not finite: repair or remove those images."
            elif low < 0:
                advice = (
                    "They look normalised: put dt.Normalize(mean, std) inside the model and pass raw images."
                )
            else:
                advice = "If they are meant as 0..255, convert them to uint8."
            raise BadInput(f"{where}: images must lie in [0, 1]; got [{low:.4g}, {high:.4g}]. {advice}")
        x = np.rint(x * 255).astype(np.uint8)
    if x.dtype != np.uint8:
        raise BadInput(
            f"{where}: images must be uint8 0..255 or float 0..1; got {x.dtype}. Convert them to uint8."
        )
    return np.ascontiguousarray(x)


def _fit(x: np.ndarray, size: int | None, channels: int | None, where: object) -> np.ndarray:
    """Resize [N,C,H,W] and change its channels, as `_picture` does for one image."""
    if channels in (None, x.shape[1]) and (size is None or x.shape[2:] == (size, size)):
        return x
    if 0 in x.shape:
        raise BadInput(
            f"{where}: there is an array without images, {list(x.shape)}. Give at least one image."
        )
    pictures = (Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0)) for one in x)
    return np.stack([_picture(picture, size, channels) for picture in pictures])


def _idx_files(folder: Path) -> dict[str, list[Path]]:
    """Split name → its image and its label file, for the splits that are there."""
    found = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        files = [sorted(folder.glob(f"{prefix}-{kind}?idx*")) for kind in ("images", "labels")]
        if all(files):
            found[part] = [file[0] for file in files]
    return found


def _idx(found: Mapping[str, list[Path]], where: str, size: int | None, channels: int | None) -> _Read:
    def part(images: Path, labels: Path) -> _Part:
        return _Part(_fit(_raw(_idx_array(images), str(images)), size, channels, where), _idx_array(labels))

    train, test = _pair(found, where)
    return _Read(part(*train), part(*test))


def _idx_array(path: Path) -> np.ndarray:
    """One IDX file: two zero bytes, type, number of dimensions, each as big-endian uint32, then the data."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be unpacked ({error}). Fetch it again.") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise BadInput(
            f"{path} is not an IDX file of bytes: it begins with {data[:4].hex()}. Fetch it again."
        )
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise BadInput(
            f"{path}: {shape} needs {expected} bytes, but the file holds {len(data)}. Fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


# --- encoded images: parquet, folders, the hub --------------------------------------------------------------


def _parquet(path: Path) -> _Tables | None:
    """The tables of a folder of parquet files; None if it holds none."""
    for folder in (path, path / "data"):
        shards = {
            name: [*folder.glob(f"{name}.parquet"), *sorted(folder.glob(f"{name}-*.parquet"))]
            for name in ("train", *_TEST)
        }
        shards = {name: files for name, files in shards.items() if files}
        if shards:
            pair = _pair(shards, path)
            return _Tables(path.name, _fingerprint(path, [*pair[0], *pair[1]]), partial(_open_parquet, pair))
    return None


def _open_parquet(pair: tuple[list[Path], list[Path]]) -> tuple[Any, Any]:
    from datasets import load_dataset

    def stream(files: list[Path]) -> Any:  # streaming writes no second copy, only a lock into `cache_dir`
        names = [str(file) for file in files]
        return load_dataset("parquet", data_files=names, split="train", streaming=True, cache_dir=scratch)

    with tempfile.TemporaryDirectory() as scratch:
        return stream(pair[0]), stream(pair[1])


def _folder(path: Path) -> _Tables:
    """The tables of a folder of class folders, with or without a split."""
    children = {child.name: child for child in _visible(path) if child.is_dir()}
    split = "as given"
    if named := {name: children[name] for name in ("train", *_TEST) if name in children}:
        parts = [_by_class(part) for part in _pair(named, path)]
        classes = sorted(parts[0])
        if unknown := sorted(set(parts[1]) - set(classes)):
            raise BadInput(
                f"{path}: class {', '.join(unknown)} is in test but not in train. Add or remove its folder."
            )
        rows = [
            [(file, k) for k, name in enumerate(classes) for file in part.get(name, [])] for part in parts
        ]
    else:
        found = {name: files for name, files in _by_class(path).items() if files}
        classes = list(found)
        if not classes:
            raise BadInput(
                f"{path} holds no images that are known here: neither train.parquet and test.parquet, nor "
                "IDX files, nor folders train/<class>/ and test/<class>/ with images in them."
            )
        every = [(file, k) for k, name in enumerate(classes) for file in found[name]]
        split = "stratified, 20 % to test, sklearn train_test_split(random_state=0) over the sorted files"
        kept = _fixed_split(np.array([k for _, k in every]), 0.2, path)
        rows = [[every[row] for row in part] for part in kept]

    def tables() -> tuple[Any, Any]:
        import datasets

        features = datasets.Features(
            image=datasets.Image(decode=False), label=datasets.ClassLabel(names=classes)
        )
        train, test = (
            datasets.Dataset.from_dict(
                {"image": [{"path": str(f), "bytes": None} for f, _ in part], "label": [k for _, k in part]},
                features=features,
            )
            for part in rows
        )
        return train, test

    files = _fingerprint(path, [file for part in rows for file, _ in part])
    return _Tables(path.name, [*files, classes], tables, split)  # a class may have no file


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Class name → image files, both in sorted order."""
    # By hand, because `datasets`' imagefolder guesses splits and labels from every folder name on the way:
    # of a class named "train", the test images would be read as training images too.
    known = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}

    def files(at: Path) -> Iterator[Path]:
        for child in _visible(at):
            if child.is_dir():
                yield from files(child)
            elif child.suffix.lower() in known:
                yield child

    return {child.name: list(files(child)) for child in _visible(folder) if child.is_dir()}


def _hub(asked: str) -> _Tables:
    """The tables of `hub:owner/name[@revision]`."""
    from datasets import load_dataset

    name, _, revision = asked.removeprefix("hub:").partition("@")
    try:
        with _no_bars():
            tables = load_dataset(name, revision=revision or None)
    except Exception as error:  # each layer below (datasets, the hub, its HTTP client) has errors of its own
        raise BadInput(
            f"{asked} could not be loaded ({type(error).__name__}: {error}). Check the name and the network, "
            "or download it and give its folder."
        ) from error
    pair = _pair(tables, asked)
    sums = [table.info.download_checksums for table in pair]  # addresses that hold the commit
    return _Tables(name, [name, revision, sums] if all(sums) else None, lambda: pair)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep `datasets` and the hub from drawing progress bars; leave their settings as they were."""
    import datasets
    import huggingface_hub.utils as hub

    shown = [library for library in (datasets, hub) if not library.are_progress_bars_disabled()]
    for library in shown:
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bars()


def _decode(
    table: Any, where: str, size: int | None, channels: int | None, group: str | None
) -> tuple[_Part, tuple[str, ...] | None]:
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
    image = next(
        (name for name, kind in features.items() if isinstance(kind, ImageColumn) or _is_struct(kind)), None
    )
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
                        f"{where} image {len(y) + row} ({cells[row]['path']}) is {_shape(one)}, but the "
                        f"first is {_shape(x[0])}; pass size= or channels= to make them equal."
                    )
            y += batch[label]
            groups += batch[group] if group else []
    if not y:
        raise BadInput(f"{where} split is empty. Give at least one image.")
    ids = _groups(groups, y if group == "track" else [0] * len(y)) if group else None
    return _Part(np.stack(x), np.array(y), ids), tuple(names) if names else None


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
                pictures.append(_picture(picture, size, channels))
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, …
            path = cell["path"] if cell else "no image"
            raise BadInput(
                f"{where} image {row} ({path}) cannot be read: {error}. Replace or remove it."
            ) from error
    return pictures


def _picture(picture: Image.Image, size: int | None, channels: int | None) -> np.ndarray:
    """Decode one image to uint8 [C,H,W]."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        raise ValueError(f"its mode {picture.mode} has more than 8 bits per channel")
    gray = picture.mode in ("1", "L") if channels is None else channels == 1
    picture = picture.convert("L" if gray else "RGB")
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    x = np.asarray(picture)
    return x[None] if gray else x.transpose(2, 0, 1)


def _groups(values: Iterable[Any], scope: Iterable[int]) -> np.ndarray | None:
    """Group ids int64 [N], equal where value and scope are; None if no two images share one."""
    ids: dict[object, int] = {}
    rows = []
    for row, (value, within) in enumerate(zip(values, scope, strict=True)):
        alone = value is None or (not isinstance(value, str) and value < 0)
        rows.append(ids.setdefault(("alone", row) if alone else (within, value), len(ids)))
    return np.array(rows) if len(ids) < len(rows) else None


# --- decoded images are kept --------------------------------------------------------------------------------


def _fingerprint(root: Path, files: Iterable[Path]) -> list[object]:
    """What changes when the files do: their names, sizes and times."""
    states = [
        (str(file.relative_to(root)), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files
    ]
    return [str(root.resolve()), hashlib.sha256(json.dumps(states).encode()).hexdigest()]


def _decoded(
    tables: _Tables, size: int | None, channels: int | None, cache: Path | None, group: str | None = None
) -> Splits:
    """Decode `tables`, or take what an earlier call kept."""
    home = Path(cache or os.environ.get("DISTRUST_CACHE") or Path("~/.cache/distrust/images").expanduser())
    recipe = {"format": _CACHE_FORMAT, "source": tables.fingerprint, "split": tables.split}
    recipe |= {"size": size, "channels": channels, "group": group}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    stem = f"{tables.name.replace('/', '--')}-{key}"
    if tables.fingerprint is not None and (kept := _load(home, stem)):
        return _splits(tables.name, kept)

    parts, names = [], []
    try:
        with _no_bars():
            for table, part in zip(tables.open(), Splits._fields, strict=True):
                decoded, classes = _decode(table, f"{tables.name}: {part}", size, channels, group)
                parts.append(decoded)
                names.append(classes)
    except (BadInput, NotFound):
        raise
    except (OSError, ValueError) as error:  # a broken parquet file
        raise BadInput(f"{tables.name} cannot be read ({error}). Fetch or write it again.") from error
    if names[0] != names[1]:
        raise BadInput(
            f"{tables.name}: train and test name their classes differently. Use the same names in both."
        )
    read = _Read(parts[0], parts[1], names[0])
    splits = _splits(tables.name, read)  # checked before it is kept
    if tables.fingerprint is not None:
        _save(home, stem, read, recipe)
    return splits


def _load(home: Path, stem: str) -> _Read | None:
    """What `_save` wrote, memory-mapped copy-on-write; None if it is not there or not whole."""
    try:
        record = json.loads((home / f"{stem}.json").read_text())
        train, test = (
            _Part(
                np.load(home / f"{stem}-{part}.npy", mmap_mode="c"),
                np.array(record[part]["y"]),
                None if record[part]["group"] is None else np.array(record[part]["group"]),
            )
            for part in Splits._fields
        )
        return _Read(train, test, record["classes"] and tuple(record["classes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(home: Path, stem: str, read: _Read, recipe: dict[str, object]) -> None:
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
