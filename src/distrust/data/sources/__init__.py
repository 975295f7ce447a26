"""Where images come from: a bundled set, files of four kinds and the hub, each read into two ImageSets."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import BadInput, NotFound
from .arrays import read_digits, read_idx, read_npz
from .decode import decoded, fitted
from .folders import find_folder
from .parts import Read, Splits, checked, reading
from .tables import find_hub, find_parquet

__all__ = ["Splits", "images"]


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
      and other files are ignored. With class folders alone: a fixed stratified split, 80 % to train. A test split
      without class folders needs a text file in it or above that gives each picture's class: `PICTURE CLASS` a line.
    - A folder of IDX files: `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, …, plain or .gz.
    - An `.npz` file with `x_train, y_train, x_test, y_test` or `train_images, train_labels, …`, or `images, labels` or
      `x, y` (then a fixed stratified split, 80 % to train), and perhaps `classes`. Images are NHWC, NCHW or NHW,
      uint8 0..255 or float 0..1 (rounded to 8 bits).
    - `"hub:owner/name"` or `"hub:owner/name@revision"`: a Hugging Face data set; its first image and first
      class column are used.

    A split called `val`, `validation` or `valid` serves as test where there is no `test`. Encoded images are
    decoded once, a few at a time, into a file in the cache, and mapped from there.

    Args:
        source: one of the above.
        size: side in pixels, to which every image is resized (PIL bilinear; a rectangle is squeezed); None
            leaves them as they are (digits: 16).
        channels: 1 (luminance) or 3 (a gray image is repeated); None leaves them as they are (digits: 3).
        cache: folder for decoded images (default: `images` in `DISTRUST_CACHE`, else in `~/.cache/distrust`). If it
            cannot be written, nothing is kept: a temporary file takes its place.
        group: column of a parquet or hub source that holds the group ids.

    Returns:
        `Splits(train, test)`: uint8 [N,C,H,W] images, int64 labels, `index` 0..N-1 within each split.

    Raises:
        NotFound: there is no such source or column.
        BadInput: an image cannot be read, sizes or channels differ among the images, pixel values or labels
            are out of range, or a split is missing or empty.
        UnsafeFile: an .npz holds Python objects.
        StoreError: there is no room for decoded images, in the temporary folder neither.
    """
    if channels not in (None, 1, 3) or (size is not None and size < 1):
        raise BadInput(f"size={size}, channels={channels}: give a size of 1 or more, and 1 or 3 channels.")
    asked = str(source)
    if asked.startswith("hub:"):
        return decoded(find_hub(asked), size, channels, cache, group)
    path = None if asked == "digits" else locate(source)
    if path and (tables := find_parquet(path)):
        return decoded(tables, size, channels, cache, group)
    if group:
        raise BadInput(f"group={group!r} names a column, but {asked} has no columns; leave it out.")
    if path is None:
        name, read, size, channels = "digits", read_digits(), size or 16, channels or 3
    elif path.is_file():
        with reading(path):
            name, read = path.stem, read_npz(path)
    elif arrays := read_idx(path, asked):
        name, read = path.name, arrays
    else:
        return decoded(find_folder(path), size, channels, cache)
    train, test = (part._replace(x=fitted(part.x, size, channels)) for part in (read.train, read.test))
    return checked(name, Read(train, test, read.classes))


def locate(source: str | Path) -> Path:
    """The file or folder that `source` names, under `DISTRUST_DATA` first."""
    root = os.environ.get("DISTRUST_DATA")
    path = Path(source).expanduser()
    named = [Path(root) / path, Path(root) / f"{path}.npz"] if root and isinstance(source, str) else []
    if found := next((place for place in named if place.exists()), None):
        return found
    if path.exists():
        return path.resolve()  # so that "." has a name
    known = {"digits"}
    if root and Path(root).is_dir():
        held = [entry for entry in Path(root).iterdir() if entry.is_dir() or entry.suffix == ".npz"]
        known |= {entry.name.removesuffix(".npz") for entry in held}
    raise NotFound(
        f"{NotFound.among('image set', str(source), known)} Looked in DISTRUST_DATA ({root or 'not set'}) "
        f"and at {path.absolute()}. Set DISTRUST_DATA to the folder that holds your image sets, or give a "
        "path or hub:owner/name."
    )
