"""The store: one folder per key, in any place; a stage is there whole or not at all, and is used only if whole.

A stage's record has a checksum, and so has every file that it names. In a directory, a stage is written and
synced under another name and then renamed, so that not even a power failure leaves half of one; the first of two
writers wins. Elsewhere nothing can be renamed: each file has its checksum in its name, and the record, which names
them, comes last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..errors import NotFound, StoreError, notice
from .leases import leased, sweep
from .places import TAKEN, drafted, ended, place_of
from .records import KEY, RECORD, SUM, Damaged, Files, Record, contents, opened, signed

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2  # of keys and records; what an earlier version made is told apart, and never half used
SIGN = ".format"  # the file that tells it
ABANDONED = 3600  # seconds after which a draft of another machine has no writer any more
DRAFT = re.compile(r"\.[0-9a-f]{32}-(?:([0-9a-f]{8})-([0-9]+)-)?[0-9a-f]{8}")  # the machine and process that write it
AT_ONCE = 256  # records that a server is asked for at a time
THREADS = 16  # that ask it for the files of as many stages


class Store:
    """Finished stages by key. `stage.json` is written last, so a folder that has it is complete.

    Args:
        url: a directory, or any fsspec URL such as `s3://bucket/path` or `memory://name`.

    Raises:
        StoreError: it cannot be opened.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url)
        self.place = place_of(self.url)
        self.fs, self.root, self.local = self.place.fs, self.place.root, self.place.local
        self.signed = False  # known to be of this format

    def _check_format(self) -> None:
        """Refuse a store whose keys mean something else."""
        if self.signed:
            return
        found = (self._bytes(SIGN) or b"").decode(errors="replace").strip()
        if not re.fullmatch("[0-9]+", found):  # none, or none that can be read: what lies there says it
            names = self._names()
            found = "1" if names and not any(map(self._summed, names)) else ""
        if found not in ("", str(FORMAT)):
            raise StoreError(
                f"store {self.url} was made by another version of Distrust (format {found}, not {FORMAT}), and "
                f"none of it is used. Run the same command with another place: --store {self.url.rstrip('/')}-{FORMAT}."
            )
        self.signed = found != ""

    def _summed(self, key: str) -> bool:
        """A stage of this format, which an earlier one did not mark so."""
        with contextlib.suppress(Damaged):
            return SUM in (self._bytes(f"{key}/{RECORD}") or b"")
        return False

    def _sign(self) -> None:
        if not self.signed:
            self.place.make()
            self.place.write(SIGN, f"{FORMAT}\n".encode())
            self.place.sync("")
            self.signed = True

    # reading

    def record(self, key: str) -> Record | None:
        """What is written about a stage: state, recipe, parents, seconds, flags; None if it never ran.

        Raises:
            Damaged: what is written there is not what was written, or no record at all.
        """
        self._check_format()
        if not KEY.fullmatch(key):
            return None
        data = self._bytes(f"{key}/{RECORD}")
        if data is None and self.local and self.place.exists(key):  # which came by a rename, with it
            raise Damaged(key, f"{RECORD} is gone")
        return None if data is None else opened(key, data)

    def records(self, keys: Iterable[str], whole: Container[str] = ()) -> Iterator[tuple[str, Record | Damaged | None]]:
        """Those of many stages, or what is wrong with them; a server is asked for many at a time.

        Args:
            keys: of the stages.
            whole: those of them whose files are read, too, if they are done.
        """
        self._check_format()
        keys = list(keys)
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            with self._reading():
                read = {} if self.local else self.place.read_all([f"{key}/{RECORD}" for key in some])
            found: dict[str, Record | Damaged | None] = {}
            for key in some:
                try:
                    data = read.get(f"{key}/{RECORD}")
                    found[key] = self.record(key) if self.local else None if data is None else opened(key, data)
                except Damaged as error:
                    found[key] = error
            done = (k for k, record in found.items() if isinstance(record, dict) and record["state"] == "done")
            asked = [key for key in done if key in whole]
            yield from (found | dict(zip(asked, self._loaded(asked), strict=True))).items()

    def _loaded(self, keys: list[str]) -> Iterator[Record | Damaged]:
        """Records whose files were read, or what is wrong with them; of a server many at a time."""

        def loaded(key: str) -> Record | Damaged:
            try:
                return self.load(key)[0]
            except Damaged as error:
                return error

        if self.local or not keys:
            yield from map(loaded, keys)
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                yield from pool.map(loaded, keys)

    def load(self, key: str) -> tuple[Record, Files]:
        """A stage's record and its files by name, verified, and all of one moment.

        Raises:
            Damaged: it is not there whole.
        """
        record = self.record(key)
        while record is not None:
            try:
                return record, self._files(key, record)
            except Damaged:
                before, record = record, self.record(key)
                if record == before:  # or else it was replaced meanwhile
                    raise
        raise Damaged(key, "it is not there")

    def _files(self, key: str, record: Record) -> Files:
        for name in record.get("left_out", ()):
            raise Damaged(key, f"{name} was left out when it was exported")
        named = record.get("files")
        if named is None:  # as an earlier version left it: nothing to verify it by
            paths = self.fs.ls(f"{self.root}/{key}", detail=False)
            named = {name: {"file": name} for path in paths if (name := path.rsplit("/", 1)[-1]) != RECORD}
        return contents(key, named, lambda file: self._bytes(f"{key}/{file}"))

    def tensors(self, key: str, name: str) -> dict[str, Tensor]:
        """A safetensors file of a finished stage.

        Raises:
            Damaged: it is not there, or not what was written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load  # and with it torch, which records need nothing of

        files = self.load(key)[1]
        if name not in files:
            raise Damaged(key, f"{name} is gone")
        try:
            return load(files[name])
        except SafetensorError as error:  # of an earlier version
            raise Damaged(key, f"{name} cannot be read ({error})") from None

    def _bytes(self, path: str) -> bytes | None:
        """A file of the store, None if there is none."""
        with self._reading(path):
            return self.place.read(path)

    @contextlib.contextmanager
    def _reading(self, path: str = "") -> Iterator[None]:
        """What goes wrong with the store's files is told in words."""
        try:
            yield
        except OSError as error:
            key, _, name = path.partition("/")
            if self.local and name:  # a folder in a file's place, a bad sector
                raise Damaged(key, f"{name} cannot be read ({error.strerror or error})") from None
            help = "Give another --store, or" if self.local else f"{self.place.advice(error).capitalize()}, and"
            raise StoreError(
                f"store {self.url} cannot be read ({error.strerror or error}). {help} try again; nothing that was "
                "finished is lost."
            ) from error

    def find(self, prefix: str) -> tuple[str, Record]:
        """The stage whose key begins with `prefix`.

        Raises:
            NotFound: none or several do.
            Damaged: it cannot be used.
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
        with self._reading():
            return [name for name in self.place.having(RECORD) if KEY.fullmatch(name)]

    def status(self, verify: bool = False) -> Record:
        """How many stages of each kind are done, failed or skipped, and what they cost; which cannot be used.

        Args:
            verify: read every file and compare it with its checksum, too.
        """
        records, damaged = dict[str, Record](), dict[str, str]()
        self._check_format()
        with self._reading():
            listed = self.place.names()
        for key, record in self.records(filter(KEY.fullmatch, listed)):
            try:
                if isinstance(record, Damaged):
                    raise record
                if record is not None:
                    records[key] = self.load(key)[0] if verify and "left_out" not in record else record
            except Damaged as error:
                damaged[key] = error.why
        counts = Counter(f"{r['kind']} {r['state']}" for r in records.values())
        return {
            "store": self.url,
            "stages": len(records),
            "seconds": round(sum(r["seconds"] for r in records.values()), 1),
            "by_kind": dict(sorted(counts.items())),
            "failed": {key: r.get("error", "") for key, r in records.items() if r["state"] == "failed"},
            "damaged": damaged,
            "set_aside": [name for name in listed if name.startswith("damaged-")],
        }

    # writing

    def save(self, key: str, record: Record, files: Mapping[str, bytes] | None = None, replace: bool = False) -> Record:
        """Write a stage; when this returns, it is there to stay. Returns the record that then stands there.

        What is done stays: of two that write one stage the first wins, and the second is told what the first wrote.
        What failed or was skipped gives way.

        Args:
            key: of the stage.
            record: what is written about it.
            files: what it made, by name.
            replace: what is done gives way too, but to nothing less.

        Raises:
            StoreError: read-only, full or unreachable; nothing half-written remains.
        """
        self._check_format()
        files, draft = files or {}, drafted(key)
        with self._writing(draft):
            self._sign()
            while True:
                standing = self.standing(key)
                gives_way = replace or (standing and "left_out" in standing)
                if standing and standing["state"] == "done" and not (gives_way and record["state"] == "done"):
                    return standing
                if standing:  # beside what is there, which is read until the record is replaced
                    return self._fill(key, key, record, files, standing)
                if not self.local:
                    with self._writing(key):
                        return self._fill(key, key, record, files, {})
                written = self._fill(draft, key, record, files, None)
                try:
                    self.place.move(draft, key)
                except OSError as error:
                    if error.errno not in TAKEN:
                        raise
                    self._sweep(draft)  # another was faster
                else:
                    self.place.sync("")
                    return written

    def _fill(self, folder: str, key: str, record: Record, files: Mapping[str, bytes], beside: Record | None) -> Record:
        """Write a stage's files and, when they are there to stay, its record; `beside` another one, or in a draft."""
        known = (beside or {}).get("files", {})
        write, named = self.place.put if beside is None else self.place.write, dict[str, dict[str, str]]()
        self.place.make(folder)
        for name, data in files.items():
            found = hashlib.sha256(data).hexdigest()
            same = known.get(name, {}).get("sha256") == found
            file = known[name]["file"] if same else name if beside is None else f"{found[:8]}-{name}"
            named[name] = {"file": file, "sha256": found}
            write(f"{folder}/{file}", data)
        if beside is not None:
            self.place.sync(folder)
        written = {"key": key, **record, "files": named}
        write(f"{folder}/{RECORD}", signed(json.dumps(written, indent=1).encode()))
        self.place.sync(folder, *(f"{folder}/{name}" for name in (*files, RECORD) if beside is None))
        return written

    def standing(self, key: str) -> Record | None:
        """A stage's record, before it is relied on or written: what cannot be used in its place is set aside."""
        try:
            return self.record(key)
        except Damaged as error:
            self.set_aside(error)
            return None

    def set_aside(self, found: Damaged) -> None:
        """Rename a stage that cannot be used, so that it is made anew, and say so."""
        key, aside = found.key, f"damaged-{found.key}-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(Damaged):
            if (record := self.record(key)) is None:
                return
            if "files" in record:
                self.load(key)
                return  # it was replaced meanwhile
        with self._writing():
            try:
                self.place.move(key, aside)
            except FileNotFoundError:
                return  # another was faster
            self.place.sync("")
        notice(f"Stage {key[:12]} cannot be used: {found.why}. It is set aside as {aside} and made anew.")

    def leased(self, keys: Iterable[str]) -> contextlib.AbstractContextManager[list[str]]:
        """Have those of these stages to oneself that nobody else is at, until the end.

        Raises:
            StoreError: it cannot be written.
        """
        self._check_format()
        with self._writing():
            self._sign()
        return leased(self.place, keys, self._writing)

    @contextlib.contextmanager
    def _writing(self, draft: str = "") -> Iterator[None]:
        """What goes wrong with the store's files is told in words, and a draft does not stay."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            if draft:
                self._sweep(draft)
            raise StoreError(
                f"store {self.url} cannot be written ({error.strerror or error}). What was finished before is still "
                f"there; {self.place.advice(error)} or give another --store, and run the same command again."
            ) from error

    def _sweep(self, draft: str) -> None:
        with contextlib.suppress(OSError):  # a store that cannot be written may not let us clean up either
            self.place.remove(draft)

    def check_writable(self) -> None:
        """Fail before any work starts if the store cannot be written; sweep up what killed runs left.

        Raises:
            StoreError: says why.
        """
        self._check_format()
        probe = f".probe-{uuid.uuid4().hex[:8]}"  # one of its own for each run that starts
        with self._writing(probe):
            self._sign()
            self.place.put(probe, b"probe")
        self._sweep(probe)
        self.sweep()

    def sweep(self) -> None:
        """Remove drafts and leases that nobody works on any more."""
        sweep(self.place)
        with contextlib.suppress(OSError):
            for name in self.place.names(".") if self.local else ():
                draft = DRAFT.fullmatch(name)
                if draft and self._abandoned(name, draft[1], draft[2]):
                    self._sweep(name)

    def _abandoned(self, name: str, machine: str | None, process: str | None) -> bool:
        """Nobody writes this draft any more: its process has ended, or, where that cannot be asked, it is old."""
        if machine and process and ended(machine, int(process)):
            return True
        age = self.place.age(name)
        return age is not None and age > ABANDONED
