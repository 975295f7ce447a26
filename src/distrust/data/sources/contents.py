"""Contents: one short word for what the files behind images hold, which changes when they do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import DistrustError, NotFound, notice
from ...files import cache_directory, write_file
from . import locate

LARGE = 2**32  # bytes that take a while to read


def contents(source: str) -> str | None:
    """A hash of the names and bytes of the files behind `source`; of a `hub:` name, the commit it stands for.

    Files are read once: the answer is kept in the cache directory under their paths, sizes, times and inodes.
    What a hub last said stands where it does not answer.

    Args:
        source: as `images` takes it.

    Returns:
        Hexadecimal; None for the bundled digits, and where there are no such files or no answer yet.
    """
    if source == "digits":
        return None
    if source.startswith("hub:"):
        return _commit(source)
    try:
        path = locate(source).resolve()
    except NotFound:
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    state = [
        (str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        for file, stat in zip(files, stats, strict=True)
    ]
    kept = _kept(state)
    with contextlib.suppress(OSError):
        return kept.read_text()
    if (size := sum(stat.st_size for stat in stats)) > LARGE:
        notice(f"{source}: {size / 2**30:.0f} GiB are read once, so that it is known by what is in it.")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = pool.map(_sum, files)
        found = _hash([(str(file.relative_to(path)), one) for file, one in zip(files, sums, strict=True)])
    _keep(kept, found)
    return found


def _commit(asked: str) -> str | None:
    """The commit of `hub:owner/name[@revision]`, which is asked of the hub."""
    from huggingface_hub import HfApi

    name, _, revision = asked.removeprefix("hub:").partition("@")
    kept = _kept(["hub", name, revision])
    try:
        found = HfApi().dataset_info(name, revision=revision or None, timeout=10).sha
    except Exception:  # each layer below has errors of its own; whoever opens the set tells them
        found = None
    if found:
        _keep(kept, found)
        return found
    with contextlib.suppress(OSError):
        return kept.read_text()
    return None


def _kept(state: object) -> Path:
    return cache_directory() / "contents" / _hash(state)


def _keep(file: Path, found: str) -> None:
    with contextlib.suppress(DistrustError):  # nowhere to keep it: it is found each time
        write_file(file, found.encode())


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
