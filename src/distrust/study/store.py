"""The store: one folder per key, on any fsspec path; a folder is there wholly or not at all."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import fsspec
from safetensors import SafetensorError

from ..errors import NotFound, StoreError

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]

FORMAT = 2  # of keys and records; what an earlier version made is told apart, and never half used
SIGN = ".format"  # the file that tells it
ABANDONED = 3600  # seconds after which a draft has no writer any more
DRAFT = len(".") + 32 + len("-") + 8  # length of a draft folder's name


class Store:
    """Finished stages by key. `stage.json` is written last, so a folder that has it is complete.

    Args:
        url: a directory, or any fsspec URL such as `s3://bucket/path` or `memory://name`.

    Raises:
        StoreError: it cannot be opened.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                f"store {self.url!r} cannot be opened ({error}). Give a directory or an fsspec URL."
            ) from None
        self.local = isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)
        self.signed = False  # known to be of this format

    def _check_format(self) -> None:
        """Refuse a store whose keys mean something else."""
        if self.signed:
            return
        try:
            found = self.fs.cat_file(f"{self.root}/{SIGN}").decode().strip()
        except (FileNotFoundError, NotADirectoryError):
            found = "1" if self._names() else ""
        if found not in ("", str(FORMAT)):
            raise StoreError(
                f"store {self.url} was made by another version of Distrust (format {found}, not {FORMAT}), and "
                f"none of it is used. Run the same command with another place: --store {self.url.rstrip('/')}-{FORMAT}."
            )
        self.signed = found != ""

    def _sign(self) -> None:
        if not self.signed:
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.pipe_file(f"{self.root}/{SIGN}", f"{FORMAT}\n".encode())
            self.signed = True

    def record(self, key: str) -> Record | None:
        """What is written about a stage: state, recipe, parents, seconds, flags; None if it never ran."""
        self._check_format()
        try:
            return json.loads(self.fs.cat_file(f"{self.root}/{key}/stage.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise self.damaged(f"{key}/stage.json", error) from None

    def find(self, prefix: str) -> tuple[str, Record]:
        """The stage whose key begins with `prefix`.

        Raises:
            NotFound: none or several do.
        """
        keys = self.keys()
        found = [k for k in keys if k.startswith(prefix)]
        if len(found) != 1:
            if found:
                raise NotFound(f"{prefix!r} begins {len(found)} keys: {', '.join(found[:5])}. Give more of it.")
            raise NotFound.among(f"key in {self.url}", prefix, [k[: max(len(prefix), 12)] for k in keys])
        return found[0], self.record(found[0]) or {}

    def keys(self) -> list[str]:
        """All keys with a complete folder."""
        self._check_format()
        return self._names()

    def _names(self) -> list[str]:
        try:
            names = [path.rsplit("/", 1)[-1] for path in self.fs.ls(self.root, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(n for n in names if len(n) == 32 and self.fs.exists(f"{self.root}/{n}/stage.json"))

    def status(self) -> Record:
        """How many stages of each kind are done, failed or skipped, and what they cost."""
        keys = self.keys()
        records = [self.record(key) or {} for key in keys]
        counts = Counter((r["kind"], r["state"]) for r in records)
        return {
            "store": self.url,
            "stages": len(records),
            "seconds": round(sum(r["seconds"] for r in records), 1),
            "by_kind": {f"{kind} {state}": n for (kind, state), n in sorted(counts.items())},
            "failed": {key: r["error"] for key, r in zip(keys, records, strict=True) if r["state"] == "failed"},
        }

    def tensors(self, key: str, name: str) -> dict[str, Tensor]:
        """A safetensors file of a finished stage.

        Raises:
            StoreError: it is gone, or damaged.
        """
        from safetensors.torch import load  # and with it torch, which records need nothing of

        try:
            return load(self.read(key, name))
        except SafetensorError as error:
            raise self.damaged(f"{key}/{name}", error) from None

    def read(self, key: str, name: str) -> bytes:
        """A file of a finished stage.

        Raises:
            StoreError: it is gone.
        """
        try:
            return self.fs.cat_file(f"{self.root}/{key}/{name}")
        except OSError as error:
            raise self.damaged(f"{key}/{name}", error) from None

    def damaged(self, file: str, error: Exception) -> StoreError:
        """What to say of a folder, or of a file in one, that cannot be read."""
        reason = "is gone" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        return StoreError(f"{self.root}/{file} {reason}. Remove the folder {file.partition('/')[0]} and run again.")

    def save(self, key: str, record: Record, files: Mapping[str, bytes] | None = None) -> None:
        """Write a stage's folder under a temporary name and rename it; an older one is replaced.

        Raises:
            StoreError: read-only, full or unreachable; nothing half-written remains.
        """
        folder = f"{self.root}/{key}"
        draft = f"{self.root}/.{key}-{uuid.uuid4().hex[:8]}" if self.local else folder
        text = json.dumps(record, indent=1).encode()
        self._check_format()
        try:
            self._sign()
            if not self.local and self.fs.exists(folder):  # no rename here: it must not look complete meanwhile
                self.fs.rm(folder, recursive=True)
            self.fs.makedirs(draft, exist_ok=True)
            for name, data in {**(files or {}), "stage.json": text}.items():
                with self.fs.open(f"{draft}/{name}", "wb") as file:
                    file.write(data)
            if self.local:
                if self.fs.exists(folder):
                    self.fs.rm(folder, recursive=True)
                os.replace(draft, folder)
        except OSError as error:
            self._sweep(draft)
            raise StoreError(
                f"store {self.url} cannot be written ({error.strerror or error}). What was finished before is "
                "still there; free space or give another --store, and run the same command again."
            ) from error

    def _sweep(self, draft: str) -> None:
        try:
            self.fs.rm(draft, recursive=True)
        except OSError:
            return  # a store that cannot be written may not let us clean up either

    def check_writable(self) -> None:
        """Fail before any work starts if the store cannot be written; sweep up what killed runs left.

        Raises:
            StoreError: says why.
        """
        probe = f".probe-{uuid.uuid4().hex[:8]}"  # one of its own for each run that starts
        self.save(probe, {"state": "probe"})
        self._sweep(f"{self.root}/{probe}")
        for entry in self.fs.ls(self.root, detail=True) if self.local else ():
            name, age = entry["name"].rsplit("/", 1)[-1], time.time() - entry.get("mtime", math.inf)
            if name.startswith(".") and len(name) == DRAFT and age > ABANDONED:
                self._sweep(entry["name"])
