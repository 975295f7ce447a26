"""Arrays: scikit-learn's digits, .npz archives and IDX files, which hold pixels as they are."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...bounds import RATIO, check_bound
from ...errors import BadInput, UnsafeFile
from .parts import TEST, Part, Read, fixed_parts, train_and_test

_NPZ = (("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "targets"))  # keys of an .npz without a split
_SPLIT = (("x_{}", "y_{}"), ("{}_x", "{}_y"), ("{}_images", "{}_labels"), ("{}_data", "{}_labels"))  # of one with it
PACKED = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


def read_digits() -> Read:
    """scikit-learn's 1797 images of 8×8; split by class, 25 % to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # values 0..16 -> 0..255
    return Read(*fixed_parts(x, bunch.target, 0.25, "digits"))


def pairs_in(archive: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Names of images and labels by split, as different people write them; under "" those that have none."""
    keys = {key.lower(): key for key in archive}  # X_train, too
    for images, labels in _SPLIT:
        words = {name: (images.format(name), labels.format(name)) for name in ("train", *TEST)}
        if found := {name: (keys[x], keys[y]) for name, (x, y) in words.items() if {x, y} <= keys.keys()}:
            return found
    return next(({"": (keys[x], keys[y])} for x, y in _NPZ if {x, y} <= keys.keys()), {})


def read_npz(path: Path) -> Read:
    """An archive with a split, or without one: then 20 % become test images."""
    if not zipfile.is_zipfile(path):
        other = path.suffix.lower() in PACKED
        told = "Unpack it, and give the folder." if other else "Give one, or a folder of images, parquet or IDX files."
        raise BadInput(f"{path} is not an .npz archive. {told}")
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        size = sum(entry.file_size for entry in packed.infolist())
    check_bound("unpacked", size, path, "bytes", RATIO * path.stat().st_size)
    if not any(name.endswith(".npy") for name in names):
        raise BadInput(
            f"{path} is an archive of {len(names)} files ({', '.join(names[:3])} …). Unpack it, and give the folder."
        )

    def take(key: str) -> np.ndarray:
        try:
            return archive[key]
        except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            if "allow_pickle" in str(error):
                raise UnsafeFile(
                    f"{path}: {key!r} holds Python objects, which can run code when opened. Not loaded. "
                    "Save plain arrays of numbers."
                ) from error
            raise BadInput(f"{path}: {key!r} cannot be read ({error}). Save the file again.") from error

    def part(images: str, labels: str) -> Part:
        y = take(labels)
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y  # Keras has [N,1]
        return Part(_raw(take(images), f"{path} {images}"), y)

    with np.load(path, allow_pickle=False) as archive:
        classes = tuple(map(str, take("classes"))) if "classes" in archive else None
        pairs = pairs_in(archive)
        if "" not in pairs and pairs:
            train, test = train_and_test(pairs, path)
            return Read(part(*train), part(*test), classes)
        if not pairs:
            raise BadInput(
                f"{path} holds {', '.join(sorted(archive)[:12]) or 'nothing'}; name its arrays x_train, y_train, "
                "x_test and y_test, or images and labels."
            )
        x, y, _ = part(*pairs[""])
    if len(x) != len(y):
        raise BadInput(f"{path}: {len(x)} images but {len(y)} labels; give one label per image.")
    return Read(*fixed_parts(x, y, 0.2, path), classes)


def _raw(x: np.ndarray, where: str) -> np.ndarray:
    """Any usual array of images as uint8 [N,C,H,W]; [N,C,H,W] wins where both readings fit."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise BadInput(
            f"{where}: images must be [N,H,W], [N,H,W,C] or [N,C,H,W] with 1 or 3 channels; got "
            f"{list(x.shape)}. {'Leave the alpha channel out: x[..., :3].' if 4 in x.shape[1:] else 'Reshape them.'}"
        )
    if x.dtype.kind == "f" and x.size:
        low, high = float(x.min()), float(x.max())
        if not 0 <= low <= high <= 1:
            if not np.isfinite(low + high):
                advice = "Some values are not finite: repair or remove those images."
            elif low < 0:
                advice = "They look normalised: put dt.Normalize(mean, std) inside the model and pass raw images."
            else:
                advice = "If they are meant as 0..255, convert them to uint8."
            raise BadInput(f"{where}: images must lie in [0, 1]; got [{low:.4g}, {high:.4g}]. {advice}")
        x = np.rint(x * 255).astype(np.uint8)
    if x.dtype != np.uint8:
        raise BadInput(f"{where}: images must be uint8 0..255 or float 0..1; got {x.dtype}. Convert them to uint8.")
    return np.ascontiguousarray(x)


def read_idx(folder: Path, where: str) -> Read | None:
    """The images and labels of a folder of IDX files; None if it holds none."""
    found = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        files = [[*filter(Path.is_file, sorted(folder.glob(f"{prefix}-{kind}?idx*")))] for kind in ("images", "labels")]
        if all(files):
            found[part] = [file[0] for file in files]
    if not found:
        return None
    pairs = train_and_test(found, where)
    train, test = (Part(_raw(_idx_array(x), str(x)), _idx_array(y)) for x, y in pairs)
    return Read(train, test)


def _idx_array(path: Path) -> np.ndarray:
    """One IDX file: two zero bytes, type, number of dimensions, each as big-endian uint32, then the data."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08":
                raise BadInput(f"{path} is not an IDX file of bytes: it begins with {head.hex()}. Fetch it again.")
            shape = [int.from_bytes(file.read(4), "big") for _ in range(head[3])]
            expected = math.prod(shape)
            check_bound("unpacked", expected, path, "bytes", RATIO * path.stat().st_size)
            data = file.read(expected + 1)
    except BadInput:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be unpacked ({error}). Fetch it again.") from error
    if len(data) != expected:
        start = 4 + 4 * len(shape)
        held = "more" if len(data) > expected else start + len(data)
        raise BadInput(f"{path}: {shape} needs {start + expected} bytes, but the file holds {held}. Fetch it again.")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
