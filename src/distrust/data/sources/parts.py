"""What every reader returns, and the checks that all of it passes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ...errors import BadInput, DistrustError
from ..images import ImageSet
from ..mapped import tensor_of

T = TypeVar("T")
TEST = ("test", "val", "validation", "valid")  # names of the split that serves as test, the first found


class Splits(NamedTuple):
    """The two parts of a source."""

    train: ImageSet
    test: ImageSet


class Part(NamedTuple):
    """Images, labels and groups of one split, decoded."""

    x: np.ndarray  # uint8 [N,C,H,W]
    y: np.ndarray  # int64 [N]
    group: np.ndarray | None = None  # int64 [N]


class Read(NamedTuple):
    """A source that has been read, not checked yet."""

    train: Part
    test: Part
    classes: tuple[str, ...] | None = None  # None: numbered


class Tables(NamedTuple):
    """Encoded images, not decoded yet."""

    name: str
    fingerprint: object  # changes when the content does; None: unknown, so nothing is kept
    open: Callable[[], tuple[Any, Any]]  # the train and the test `datasets` table
    split: str = "as given"  # how train and test were told apart, for the cache's record


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Say which source it is that cannot be read."""
    try:
        yield
    except DistrustError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # a broken parquet file, or archive
        raise BadInput(f"{name} cannot be read ({error}). Fetch or write it again.") from error


def train_and_test(found: Mapping[str, T], where: object) -> tuple[T, T]:
    """The train and the test entry of `found`, by split name."""
    test = next((name for name in TEST if name in found), None)
    if "train" not in found or test is None:
        missing = "train" if "train" not in found else "test"
        raise BadInput(
            f"{where}: there is no {missing} split (found: {', '.join(found) or 'none'}). Add one named {missing!r}."
        )
    return found["train"], found[test]


def fixed_parts(x: np.ndarray, y: np.ndarray, test: float, where: object) -> tuple[Part, Part]:
    """A stratified train and test part, the same for everyone."""
    from sklearn.model_selection import train_test_split

    try:
        train, rest = map(np.sort, train_test_split(np.arange(len(y)), test_size=test, stratify=y, random_state=0))
    except ValueError as error:
        raise BadInput(
            f"{where}: no stratified test part can be cut off {len(y)} images ({error}). Give train and test apart."
        ) from error
    return Part(x[train], y[train]), Part(x[rest], y[rest])


def checked(name: str, read: Read) -> Splits:
    """Check what was read and wrap it."""
    for which, part in zip(Splits._fields, read[:2], strict=True):
        if len(part.x) == 0:
            raise BadInput(f"{name}: the {which} split is empty. Give at least one image.")
    y = [whole_numbers(part.y, f"{name}: {which}") for which, part in zip(Splits._fields, read[:2], strict=True)]
    if read.train.x.shape[1:] != read.test.x.shape[1:]:
        raise BadInput(
            f"{name}: train images are {shape_of(read.train.x[0])} but test images "
            f"{shape_of(read.test.x[0])}; pass size= or channels= to make them equal."
        )
    distinct = len(np.union1d(*y))
    classes = read.classes or tuple(map(str, range(distinct)))

    def wrapped(part: Part, y: np.ndarray) -> ImageSet:
        group = None if part.group is None else torch.from_numpy(part.group)
        return ImageSet(tensor_of(part.x), torch.from_numpy(y), classes, name, group=group)

    return Splits(wrapped(read.train, y[0]), wrapped(read.test, y[1]))


def whole_numbers(y: np.ndarray, where: object) -> np.ndarray:
    """Labels as int64."""
    if y.ndim > 1:
        one_hot = len(y) > 0 and y.dtype.kind in "iufb" and bool(((y != 0).sum(1) == 1).all())
        told = "Take y.argmax(1) of these one-hot ones." if one_hot else "Keep one class number for each."
        raise BadInput(f"{where}: several labels a picture are not taken. {told}")
    if y.dtype.kind not in "iu":
        kinds = {"f": "floats", "b": "true or false"}
        such = kinds.get(y.dtype.kind, f"words such as {str(y[0])!r}" if len(y) else "nothing")
        raise BadInput(
            f"{where} labels must be whole numbers 0..K-1; these are {such}. Number the classes: "
            "numpy.unique(y, return_inverse=True)."
        )
    if len(y) and (y == -1).all():
        raise BadInput(
            f"{where} labels are hidden (all are -1). Give a split with labels under this name, or leave it out, and a "
            "validation split serves as test."
        )
    return y.astype(np.int64)


def shape_of(x: np.ndarray) -> str:
    """`3×16×16`, for messages."""
    return "×".join(map(str, x.shape))
