"""Are pictures decoded as fast as by a pool of processes, and how long does the next opening of their folder take?"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import distrust as dt

from .measure import Row, Scale, compare, number, timed
from .pictures import pictures

DISTINCT = 60  # pictures; the others are links to their files
POOL, GOAL, AGAIN = "Pillow in a Pool", 1.0, 0.3


def rows(scale: Scale) -> Iterator[Row]:
    """JPEG and PNG. Ours reads the folder's state too, and writes the file that it maps; the pool keeps nothing."""
    count, side = scale.of((3000, 224), (600, 224), (100, 8))
    start = scale.of("fork", "fork", "spawn")  # a fork is what is quick, and may hang beside a test's threads
    for end in (".jpg", ".png"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "set"
            files = linked(root, count, side, end)
            ways = {"images": lambda root=root: _first(root), POOL: lambda files=files: _pool(files, start)}
            what = f"{count} pictures {end} of {side}×{side}"
            yield from compare(what, ways, {POOL: GOAL}, scale.rounds(5))
            cache = Path(folder) / "cache"
            again = timed({"again": lambda root=root, cache=cache: dt.images(root, cache=cache)}, scale.rounds(5))
            yield number(f"{what}, opened again", "images", again["again"], AGAIN)


def linked(root: Path, count: int, side: int, end: str) -> list[Path]:
    """Pictures in `train` and `test`, nine to one, and in a folder a class; a few files under many names."""
    images = pictures(min(DISTINCT, count), side)
    root.mkdir(parents=True)
    for row, x in enumerate(images.x.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(x).save(root / f".{row}{end}", quality=90)
    files = []
    for row in range(count):
        split = "test" if row // len(images.classes) % 10 == 9 else "train"
        files.append(root / split / images.classes[row % len(images.classes)] / f"{row:06}{end}")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        os.link(root / f".{row % len(images)}{end}", files[-1])
    return files


def _first(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent) as cache:
        dt.images(root, cache=Path(cache))


def _pool(files: list[Path], start: str) -> None:
    with multiprocessing.get_context(start).Pool(os.cpu_count()) as pool:
        for _ in pool.imap(_array, files, chunksize=16):
            pass


def _array(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
