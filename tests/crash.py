"""A disk whose power can fail: records what is written, synced and renamed, and gives the disk as it is after a cut."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Names = dict[str, int]  # what a folder lists: name → inode


class Disk:
    """The folder `root`, watched: what of it is there to stay, after every step.

    What a file holds stays from when it is synced, and a name from when its folder is. Nothing else is promised.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[tuple[dict[int, bytes], dict[int, bytes], dict[int, Names], dict[int, Names]]] = []
        self.kept: dict[int, bytes] = {}
        self.listed: dict[int, Names] = {root.stat().st_ino: {}}
        self.marks: dict[int, str] = {}  # how many steps there were when something was said to be done

    def look(self, synced: int | None = None) -> None:
        """Note how everything is, and that this file or folder was synced."""
        files, folders = dict[int, bytes](), dict[int, Names]()
        for place, inner, names in os.walk(self.root):
            where = Path(place)
            folders[where.stat().st_ino] = {name: (where / name).stat().st_ino for name in (*inner, *names)}
            files |= {(where / name).stat().st_ino: (where / name).read_bytes() for name in names}
        if synced in files:
            self.kept[synced] = files[synced]
        elif synced in folders:
            self.listed[synced] = folders[synced]
        self.steps.append((dict(self.kept), files, dict(self.listed), folders))

    @contextmanager
    def watched(self, monkeypatch) -> Iterator[Disk]:
        """Looks before and after every call that matters."""
        sync, one = os.fsync, threading.RLock()

        def after(name: str) -> None:
            call = getattr(os, name)

            def patched(*args, **kwargs):
                with one:
                    self.look()
                    result = call(*args, **kwargs)
                    self.look()
                    return result

            monkeypatch.setattr(os, name, patched)

        def synced(at: int) -> None:
            with one:  # as two may be asked for at once
                self.look()
                sync(at)
                self.look(os.fstat(at).st_ino)

        with monkeypatch.context() as monkeypatch:
            for name in ("replace", "rename", "mkdir", "makedirs", "unlink", "rmdir"):
                after(name)
            monkeypatch.setattr(os, "fsync", synced)
            yield self

    def done(self, what: str) -> None:
        """Somebody was told that this is finished."""
        self.look()
        self.marks[len(self.steps) - 1] = what

    def finished(self, step: int) -> set[str]:
        return {what for at, what in self.marks.items() if at <= step}

    def after_cut(self, step: int, draw: random.Random, to: Path) -> Path:
        """One of the disks that a cut after this step may leave: what was not synced is there, gone, or torn."""
        kept, files, listed, folders = self.steps[step]

        def write(folder: int, place: Path) -> None:
            place.mkdir(parents=True)
            old, new = listed.get(folder, {}), folders.get(folder, {})
            for name in sorted({*old, *new}):
                inode = draw.choice([old, new]).get(name)
                if inode is None:
                    continue
                if inode in folders or inode in listed:
                    write(inode, place / name)
                    continue
                is_now = files.get(inode, kept.get(inode, b""))
                torn = [is_now, b"", is_now[: len(is_now) // 2], bytes(len(is_now))]
                (place / name).write_bytes(kept[inode] if kept.get(inode) == is_now else draw.choice(torn))

        shutil.rmtree(to, ignore_errors=True)
        write(self.root.stat().st_ino, to)
        return to
