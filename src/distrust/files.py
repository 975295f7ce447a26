"""Files: a file or a folder is written whole or not at all; what was found out once is kept in the cache directory."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .errors import BadInput, StoreError

MARKS = (  # by one of them a file says that Distrust wrote it
    b'<meta name="generator" content="Distrust',
    "· Distrust</title>".encode(),  # pages of earlier versions
    b'"generator": "Distrust',
    b'"name": "Distrust"',  # the tool of a SARIF file
    b"Distrust figure",
)


def artefact_name(taint: tuple[str, ...] | list[str]) -> str:
    """`model.safetensors`, or `model.tainted-badnets.safetensors` when an attack is among the ancestors."""
    words = re.sub(r"[^\w.+-]", "_", "+".join(taint))[:150]  # whatever a plug-in is called, it is one short name
    return f"model.tainted-{words}.safetensors" if taint else "model.safetensors"


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder to; at the end it becomes `path`, whole.

    Raises:
        StoreError: it cannot be written; nothing is left behind.
        BadInput: it is a device.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BadInput(f"{path} is no file but a device. Give another place.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        why = error.strerror or error
        raise StoreError(f"{path} cannot be written ({why}). Nothing was left behind. Give another place.") from None
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)


def sync(*paths: str | Path) -> None:
    """What was written into files, and the names in folders, stay even if the power fails.

    All are asked for at once: a file system that is told so writes its journal once, and not once for each.
    """
    if len(paths) == 1:
        return _sync(*paths)
    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(_sync, paths))


def _sync(path: str | Path) -> None:
    windows = os.name == "nt"  # where a folder cannot be opened, and a file must be open for writing
    if windows and os.path.isdir(path):
        return
    at = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(at)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network drives cannot
            raise
    finally:
        os.close(at)


def write_file(path: Path, data: bytes) -> None:
    """Write a file, all or nothing; StoreError as `draft` says it."""
    with draft(path) as file:
        file.write_bytes(data)
        sync(file)


def replaceable(path: str | Path, overwrite: bool = False) -> Path:
    """The path of a file to be written, refused if something else is there; asked before any work starts.

    Args:
        path: of the file.
        overwrite: it may replace a file that no earlier run wrote.

    Raises:
        BadInput: a folder, a device, a link or a study is there, or a file that says not that Distrust wrote it.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return path
    kinds = ((path.is_symlink(), "a link"), (path.is_dir(), "a folder"), (not path.is_file(), "a device"))
    what = next((what for true, what in (*kinds, (path.suffix == ".toml", "a study")) if true), None)
    if what:
        raise BadInput(f"{path} is {what}, which is never replaced. Give another place.")
    if not overwrite:
        with path.open("rb") as file:
            head = file.read(4096)
            file.seek(max(0, path.stat().st_size - 16384))  # where a PDF says it
            said = head + file.read()
        if head and not any(mark in said for mark in MARKS):
            raise BadInput(f"{path} exists, and is nothing that Distrust wrote. Give another place, or --overwrite.")
    return path


def free(path: str | Path) -> Path:
    """The path of a folder to be written, refused if it is taken or cannot be made; asked before any work starts.

    Raises:
        BadInput: it exists and is not empty.
        StoreError: there is no place for it.
    """
    path = Path(path)
    if path.is_symlink():
        raise BadInput(f"{path} is a link. Give another --out, or remove it.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BadInput(f"{path} exists already and is not empty. Give another --out, or remove it.")
        with tempfile.TemporaryDirectory(prefix=".", dir=above):  # by doing: what may be written, no mode tells
            pass
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}: {above}). Give another place.") from None
    return path


def write_folder(path: str | Path, files: Mapping[str, bytes]) -> Path:
    """Write a folder of files, all or nothing.

    Raises:
        BadInput: the folder exists and is not empty.
        StoreError: as `draft` says it.
    """
    path = free(path)
    with draft(path) as folder:
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
    return path


def cache_directory() -> Path:
    """Where decoded images and probe answers are kept: DISTRUST_CACHE, or ~/.cache/distrust."""
    return Path(os.environ.get("DISTRUST_CACHE") or Path.home() / ".cache" / "distrust")


def remembered(what: str, find: Callable[[], Any]) -> Any:
    """What `find` returned when this very code was last asked: read from the cache directory, else found and kept.

    Args:
        what: the name of the answer; letters and dashes.
        find: gives it, JSON-able, from the package's own files alone: it is asked again as soon as one of them changes.
    """
    file = cache_directory() / "facts" / f"{what}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # nothing there, or nothing of ours
        kept = json.loads(file.read_text())
        if kept["code"] == code():
            return kept["answer"]
    text = json.dumps({"code": code(), "answer": find()}, ensure_ascii=False)
    with contextlib.suppress(StoreError):  # nowhere to keep it: it is found each time
        write_file(file, text.encode())
    return json.loads(text)["answer"]


@functools.cache
def code() -> str:
    """A hash of the package's source and of the Python that reads it."""
    root = Path(__file__).parent
    found = hashlib.sha256(sys.version.encode())
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()
