"""How fast is a folder of pictures opened for the first time? Beside a loop of Pillow in as many processes: a ratio.

python benchmarks/decode.py [--images N] [--rounds R] [--out FILE]

224×224 pictures, nine tenths to train, as JPEG (quality 90) and as PNG, whose file is named FILE-png. Ours reads the
folder's state, decodes, and writes the file that later openings map; the loop decodes into arrays, and keeps none.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from ratio import asked, compare

import distrust as dt

SIDE = 224
GOAL = 1.0  # ours / the loop
KINDS = {"jpeg": ".jpg", "png": ".png"}


def pictures(root: Path, count: int, end: str) -> list[Path]:
    """A folder of class folders; pictures are smooth, with some noise, so that files are as large as photographs'."""
    random, files = np.random.default_rng(0), []
    for row in range(count):
        smooth = Image.fromarray(random.integers(0, 256, (14, 14, 3), np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
        noise = random.integers(-8, 9, (SIDE, SIDE, 3))
        file = root / ("train" if row % 10 else "test") / f"class{row % 7}" / f"{row:06}{end}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)).save(file, quality=90)
        files.append(file)
    return files


def array(file: Path) -> np.ndarray:
    """What the loop does with a picture."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def loop(files: list[Path]) -> None:
    """The loop: a process for every core."""
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for _ in pool.imap(array, files, chunksize=16):
            pass


def ours(root: Path) -> None:
    """The first opening, with a cache of its own."""
    with tempfile.TemporaryDirectory(dir=root.parent) as cache:
        dt.images(root, cache=Path(cache))


def main() -> None:
    """Measure both once a round, in turn, for each kind of file."""
    wanted = asked(__doc__.partition("\n")[0], 3000, "decode")
    for kind, end in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "set"
            files = pictures(root, wanted.images, end)
            ways = {"ours": lambda root=root: ours(root), "pool": lambda files=files: loop(files)}
            what = f"seconds to decode {wanted.images} {kind.upper()} pictures of {SIDE}×{SIDE}"
            out = wanted.out if kind == "jpeg" else wanted.out.with_stem(f"{wanted.out.stem}-{kind}")
            compare(what, ways, GOAL, wanted.rounds, out)


if __name__ == "__main__":
    main()
