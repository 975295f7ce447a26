"""Housekeeping: what lies in a store, which of it is sound, which may go, and how it comes into another store."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput, NotFound, StoreError, notice
from ..files import draft, free
from . import store as engine
from .archives import INSIDE, packing, staged, unpacking, verified
from .leases import living
from .places import File, drafted
from .records import KEY, RECORD, Damaged, Files, Record, signed
from .store import ABANDONED, DRAFT, FORMAT, SIGN

DAY = 86_400.0


class Store(engine.Store):
    """A store, to be looked after.

    Args:
        url: a directory, or any fsspec URL such as `s3://bucket/path` or `memory://name`.

    Raises:
        StoreError: it cannot be opened.
    """

    def ls(self) -> list[dict[str, Any]]:
        """Every stage: `key`, `kind`, `state`, `label`, `taint`, `seconds`, `bytes` and `age` in seconds.

        What cannot be used has the state "damaged", and `error` says why.
        """
        files = self._by_folder()
        keys = [name for name in sorted(files) if KEY.fullmatch(name)]
        found = []
        for key, record in self.records(keys):
            if record is None:  # on its way, or what is left of one
                continue
            known = {"state": "damaged", "error": record.why} if isinstance(record, Damaged) else record
            facts = {name: known.get(name) for name in ("kind", "state", "label", "taint", "seconds", "error")}
            size, last = _sum(files[key])
            found.append({"key": key, **facts, "bytes": size, "age": round(max(time.time() - last, 0.0))})
        return found

    def verify(self) -> dict[str, Any]:
        """Read every file and compare it with its checksum; nothing is changed. Returns what `status` does."""
        return self.status(verify=True)

    def gc(self, keep: Collection[str] | None = None, *, days: float = 7.0, remove: bool = False) -> dict[str, Any]:
        """Say what nobody needs and, if asked to, remove it: it is gone for good then.

        Args:
            keep: keys of the stages that stay, as `distrust.needed` gives them; None: all of them.
            days: stages that were set aside stay so long.
            remove: do it.

        Returns:
            `stages`, `set_aside`, `drafts` and `leftovers` by name, their `bytes`, and `removed`.

        Raises:
            StoreError: somebody works there, or it cannot be written.
        """
        self._check_format()
        working = list[str]()
        if remove and keep is not None:
            with self._writing():
                working = living(self.place)
        if working:
            raise StoreError(
                f"store {self.url} is being worked on ({len(working)} stages, on {', '.join(sorted(set(working)))}). "
                "Nothing was removed; type the same command when that run has ended."
            )
        now, files = time.time(), self._by_folder()
        if remove:
            with self._writing():
                now = self.place.now()
        stages, aside, drafts, leftovers = [], [], [], []
        for name, inside in files.items():
            size, last = _sum(inside)
            age = now - last
            if KEY.fullmatch(name):
                if keep is not None and name not in keep:
                    stages.append((name, size))
                elif RECORD not in inside and age > ABANDONED and not self.local:
                    drafts.append((name, size))
                elif age > ABANDONED:
                    leftovers += [(f"{name}/{file}", inside[file].size) for file in self._unnamed(name, inside)]
            elif name.startswith("damaged-") and age > days * DAY:
                aside.append((name, size))
            elif (DRAFT.fullmatch(name) or name.startswith(".probe-")) and age > ABANDONED:
                drafts.append((name, size))
        everything = [*stages, *aside, *drafts, *leftovers]
        if remove:
            self.sweep()
            with self._writing():
                for name, _ in everything:
                    self._discard(name)
        groups = {"stages": stages, "set_aside": aside, "drafts": drafts, "leftovers": leftovers}
        return {
            "store": self.url,
            **{group: [name for name, _ in found] for group, found in groups.items()},
            "bytes": sum(size for _, size in everything),
            "removed": remove,
        }

    def _by_folder(self) -> dict[str, dict[str, File]]:
        """What lies there: of each folder its files; a file at the top has itself."""
        found: dict[str, dict[str, File]] = {}
        self._check_format()
        with self._reading():
            for path, file in (self.place.files() if self.place.names() else {}).items():
                folder, _, name = path.partition("/")
                found.setdefault(folder, {})[name] = file
        return found

    def _unnamed(self, key: str, inside: Mapping[str, File]) -> list[str]:
        """Files of a stage that its record does not name: of one that it replaced, or of a writer that died."""
        try:
            record = self.record(key)
        except Damaged:
            return []
        if not record or "files" not in record:
            return []
        return sorted(inside.keys() - {RECORD, *(facts["file"] for facts in record["files"].values())})

    def _discard(self, name: str) -> None:
        """Remove it so that no moment sees half of a stage."""
        if KEY.fullmatch(name) and self.local:
            away = drafted(name)
            with contextlib.suppress(FileNotFoundError):  # another was faster
                self.place.move(name, away)
            name = away
        elif KEY.fullmatch(name):
            self.place.drop(f"{name}/{RECORD}")
        self.place.remove(name)

    # into another store

    def export(
        self,
        out: str | Path,
        keys: Iterable[str] | None = None,
        *,
        bare: Collection[str] = (),
        beside: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """Write stages into a new zip archive or folder, whole or not at all; each is verified before.

        Unpacked, the archive is a folder in which `runs` is a store.

        Args:
            out: its name; one that ends in `.zip` is an archive.
            keys: of the stages; what the store does not have is left out. None: all that it has.
            bare: of these the record goes alone, as weights that nobody needs again.
            beside: other files, by name.

        Returns:
            `out`, the number of `stages`, their `bytes`, and what is `damaged` and left out.

        Raises:
            BadInput: there is something of that name.
            NotFound: the store has none of these stages.
            StoreError: it cannot be written.
        """
        out, damaged, n = Path(out), dict[str, str](), 0
        if out.suffix == ".zip" and os.path.lexists(out):
            raise BadInput(f"{out} exists already. Give another name, or remove it.")
        if out.suffix != ".zip":
            free(out)
        there = set(self.keys())
        chosen = sorted(there) if keys is None else [key for key in keys if key in there]
        if not chosen:
            raise NotFound(f"store {self.url} has {'no stage' if keys is None else 'none of these stages'} yet.")
        with draft(out) as path, packing(path, out.suffix == ".zip") as write:
            for name, data in {**(beside or {}), f"{INSIDE}/{SIGN}": f"{FORMAT}\n".encode()}.items():
                write(name, data)
            for key in chosen:
                try:
                    for name, data in self._packed(key, key in bare).items():
                        write(f"{INSIDE}/{key}/{name}", data)
                    n += 1
                except Damaged as error:
                    damaged[key] = error.why
        size = sum(file.stat().st_size for file in (out.rglob("*") if out.is_dir() else [out]) if file.is_file())
        return {"out": str(out), "stages": n, "bytes": size, "damaged": damaged}

    def _packed(self, key: str, bare: bool) -> Files:
        record, files = self.load(key)
        named = record.get("files") or {}
        if bare and files:
            record = {**record, "files": {}, "left_out": sorted(files)}
            files = {}
        text = json.dumps(record, indent=1).encode()
        packed = {named.get(name, {}).get("file", name): data for name, data in files.items()}
        return {**packed, RECORD: signed(text) if "files" in record else text}

    def import_(self, source: str | Path) -> dict[str, Any]:
        """Take stages from an archive or a folder that `export` wrote; nothing that is there is replaced by less.

        Every name and size is looked at before anything is read, and every checksum before anything is written. Code is
        not run. What was changed on purpose, checksums and all, is not noticed: trust who made it, as you would for
        weights.

        Returns:
            Numbers of stages that were `imported` and that were `there`, and what is `damaged` and left out.

        Raises:
            NotFound: no such file.
            BadInput: it is no such archive, or one that writes elsewhere, or asks for too much.
            StoreError: another version made it, or the store cannot be written.
        """
        damaged, imported, there = dict[str, str](), 0, 0
        with unpacking(source) as files:
            keys = sorted({name.split("/")[1] for name in files if staged(name)})
            for key in keys:
                try:
                    record, content = verified(key, files)
                except Damaged as error:
                    damaged[key] = error.why
                    continue
                standing = self.standing(key)
                if standing and not _better(record, standing):
                    there += 1
                    continue
                self.save(key, record, content)
                imported += 1
        for key, why in damaged.items():
            notice(f"Stage {key[:12]} of {source} cannot be used: {why}. It is left out.")
        return {"from": str(source), "imported": imported, "there": there, "damaged": damaged}


def _sum(files: Mapping[str, File]) -> tuple[int, float]:
    """Bytes of all, and when the last one was written."""
    return sum(file.size for file in files.values()), max((file.modified for file in files.values()), default=math.inf)


def _better(new: Record, old: Record) -> bool:
    """It has more than what stands there: it is done, or done whole."""
    if new["state"] != "done":
        return False
    return old["state"] != "done" or ("left_out" in old and "left_out" not in new)
