"""Decoding goes straight into the file that is kept: a few images at a time, whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from distrust.data import mapped
from distrust.data.mapped import Mapped
from distrust.data.sources import decode, images
from distrust.tensors import read_record

X = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """48 training and 12 test images of three classes, in class folders without a split."""
    for row, x in enumerate(X):
        file = tmp_path / "set" / "abc"[row % 3] / f"{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(file)
    return tmp_path / "set"


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """Counts the images that are decoded."""
    counts, real = [], decode.picture_array
    monkeypatch.setattr(decode, "picture_array", lambda *args: counts.append(1) or real(*args))
    return counts


def kept() -> list[Path]:
    return [path for path in Path(os.environ["DISTRUST_CACHE"]).rglob("*") if path.is_file()]


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_only_a_few_images_a_thread_are_held(folder, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(decode, "BATCH", 1)
    live, most, real = 0, 0, decode._read_rows

    def gone() -> None:
        nonlocal live
        live -= 1

    def read(cells, first, **options):
        nonlocal live, most
        made = real(cells, first, **options)
        for one in made:
            weakref.finalize(one, gone)
        live += len(made)
        most = max(most, live)
        return made

    monkeypatch.setattr(decode, "_read_rows", read)
    images(folder)
    assert 2 <= most <= 2 * 2 + 3, "twice as many as threads, the one that is written, and two"


def test_what_is_kept_is_a_safetensors_file_and_one_of_the_library_is_read_too(folder, seen):
    first = images(folder)
    assert len(seen) == 60
    (file,) = kept()
    tensors = load_file(file)
    assert torch.equal(tensors["train.x"], first.train.x) and torch.equal(tensors["test.y"], first.test.y)
    facts = read_record(file)
    assert facts["format"] == 3 and facts["classes"] == ["a", "b", "c"]
    save_file(tensors, file, {"distrust": json.dumps(facts)})
    for part, again in zip(first, images(folder), strict=True):
        assert torch.equal(part.x, again.x) and torch.equal(part.y, again.y) and part.classes == again.classes
    assert len(seen) == 60


def test_a_large_set_stays_on_disk_with_the_same_pixels(folder, monkeypatch):
    first = images(folder)
    monkeypatch.setattr(mapped, "LIMIT", 20 * X[0].nbytes)
    for splits in (images(folder), images(folder, cache=folder.parent / "other")):
        assert isinstance(splits.train.x, Mapped) and type(splits.test.x) is torch.Tensor
        assert torch.equal(splits.train.x, first.train.x) and torch.equal(splits.test.x, first.test.x)


def test_what_a_killed_process_leaves_is_never_used_and_swept_up_later(folder, seen):
    died = run(
        """
        import os, sys
        from distrust.data.sources import decode, images
        seen, real = [], decode.picture_array
        decode.picture_array = lambda *args: seen.append(1) or (os._exit(9) if len(seen) == 50 else real(*args))
        images(sys.argv[1])
        """,
        folder,
    )
    assert died.returncode == 9
    (left,) = kept()
    assert left.name.startswith("."), "a draft"
    images(folder)
    assert len(seen) == 60 and len(kept()) == 2
    os.utime(left, (1, 1))
    shutil.copy(folder / "a" / "00.png", folder / "a" / "new.png")
    images(folder)
    assert left in kept(), "a draft of another file"
    os.remove(folder / "a" / "new.png")
    next(file for file in kept() if file.name == left.name[1:].rpartition(".")[0]).unlink()
    images(folder)
    assert left not in kept() and len(kept()) == 2


@pytest.mark.slow
def test_a_second_opening_imports_nothing_that_only_decoding_needs(folder):
    code = """
        import sys
        from distrust.data.sources import images
        images(sys.argv[1])
        print(*sorted({"datasets", "pyarrow", "pandas", "sklearn"} & sys.modules.keys()))
    """
    assert "datasets" in run(code, folder).stdout
    assert run(code, folder).stdout.strip() == ""


MEMORY = """
    import os, sys, threading
    import distrust as dt
    import distrust.data.images as sets
    import distrust.methods.attacks._poison as poison
    import distrust.models.normalize as normalize
    from distrust.data import mapped, roles
    from distrust.methods.attacks import badnets

    def anonymous():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

    def all_of_it(folder):
        train, _ = dt.images(folder)
        cut = roles(train, clean=0.1, validation=0.1)
        poisoned, _ = badnets(cut.train, target=0, rate=0.3)
        dt.Normalize.of(poisoned)
        stamped = int(sets.changed(cut.train, poisoned).sum())
        shown = sum(len(y) for _, y in poisoned.batches(8, dt.rng(0), dt.Augment()))
        return poisoned, stamped, shown

    os.cpu_count = lambda: 2
    mapped.LIMIT = normalize.CHUNK = poison.CHUNK = sets.CHUNK = 2**19
    all_of_it(sys.argv[1])  # imports, and what is allocated once
    before, most, done = anonymous(), [0], threading.Event()

    def look():
        while not done.wait(0.001):
            most[0] = max(most[0], anonymous())

    thread = threading.Thread(target=look)
    thread.start()
    poisoned, stamped, shown = all_of_it(sys.argv[2])
    done.set()
    thread.join()
    print(poisoned.x.nbytes, most[0] - before, len(poisoned), stamped, shown, type(poisoned.x).__name__)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is anonymous memory")
@pytest.mark.slow
def test_a_large_set_is_opened_cut_poisoned_and_compared_in_a_small_share_of_its_size(tmp_path, monkeypatch):
    picture = tmp_path / "picture.jpg"
    Image.effect_noise((224, 224), 60).convert("RGB").save(picture)
    for name, count in (("few", 60), ("many", 600)):
        for row in range(count):
            file = tmp_path / name / ("train" if row % 6 else "test") / "ab"[row % 2] / f"{row:03}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            os.link(picture, file)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**16))  # what is freed goes back to the system at once
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = run(MEMORY, tmp_path / "few", tmp_path / "many")
    assert done.returncode == 0, done.stderr
    *counts, kind = done.stdout.split()
    size, grown, images_, stamped, shown = map(int, counts)
    assert kind == "Mapped" and (images_, stamped, shown) == (400, 120, 400)
    assert grown < size / 2, f"{grown / 2**20:.0f} MiB for {size / 2**20:.0f} MiB of pixels"
