"""Places: where a store's files lie: a folder, which renames and syncs, or objects at a URL, written in one step.

Whatever goes wrong in one is an OSError, for whoever asked to tell.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.registry import known_implementations

from ..errors import StoreError
from ..files import sync

TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # what a rename says if there is something of that name
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "r2")  # protocols that begin with a bucket
LONG = 300  # characters of what a server says


class File(NamedTuple):
    """Of a file: its bytes, and when it was last written, in seconds of the place's own clock."""

    size: int
    modified: float


class Objects:
    """What every fsspec file system can do; nothing there can be renamed.

    Args:
        fs: of fsspec.
        root: the place's path in it.
    """

    local = False

    def __init__(self, fs: Any, root: str) -> None:
        self.fs, self.root = fs, root
        names = fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,)
        self.flat = not set(names).isdisjoint((*BUCKETS, "memory"))  # folders are only parts of names

    def read(self, path: str) -> bytes | None:
        """A file, None if there is none."""
        with _told(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self.fs.cat_file(self.at(path))
        return None

    def read_all(self, paths: list[str]) -> dict[str, bytes | None]:
        """Many files at once."""
        with _told():
            found = self.fs.cat_ranges([self.at(path) for path in paths], None, None)
            failed = [one for one in found if isinstance(one, Exception) and not isinstance(one, FileNotFoundError)]
            if failed:
                raise failed[0]
        return {path: one if isinstance(one, bytes) else None for path, one in zip(paths, found, strict=True)}

    def put(self, path: str, data: bytes) -> None:
        """Write a file in one step, over what is there."""
        with _told():
            self.fs.pipe_file(self.at(path), data)

    write = put  # whole or not at all

    def create(self, path: str, data: bytes) -> bool:
        """Write a file if there is none of that name; False if there is.

        Where a server cannot be asked for that in one step, of two that create it at once the last one has.
        """
        if self.exists(path):
            return False
        with _told():
            try:
                self.fs.pipe_file(self.at(path), data, mode="create")
                return True
            except FileExistsError:
                return False
            except (TypeError, ValueError, NotImplementedError):  # it does not know the word
                pass
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise
        self.put(path, data)
        return self.read(path) == data

    def renew(self, path: str, data: bytes) -> None:
        """Make a file, of which this is what it says, as young as if it were written now."""
        self.put(path, data)

    def age(self, path: str) -> float | None:
        """Seconds since a file was written, by the place's own clock; None if there is no file."""
        with contextlib.suppress(FileNotFoundError):
            return self.now() - self._modified(path)
        return None

    def now(self) -> float:
        """The time by the place's own clock: that of a file written now."""
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        self.put(probe, b"probe")
        try:
            return self._modified(probe)
        finally:
            self.drop(probe)

    def _modified(self, path: str) -> float:
        with _told():
            return self.fs.modified(self.at(path)).timestamp()

    def names(self, prefix: str = "") -> list[str]:
        """What lies in it, or of that what begins so."""
        try:
            with _told():
                listed = (path.rstrip("/").rsplit("/", 1)[-1] for path in self.fs.ls(self.root, detail=False))
                return sorted(name for name in listed if name.startswith(prefix))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def having(self, name: str) -> list[str]:
        """The folders in it that have a file of this name."""
        found = (path.split("/") for path in self.files())
        return sorted(path[0] for path in found if len(path) == 2 and path[1] == name)

    def files(self) -> dict[str, File]:
        """Every file below it."""
        with _told():
            found: dict[str, Any] = self.fs.find(self.root, detail=True)
        start = len(self.root.rstrip("/")) + 1
        return {path[start:]: File(facts.get("size") or 0, _when(facts)) for path, facts in found.items()}

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder of that name."""
        with _told():
            return self.fs.exists(self.at(path))

    def make(self, folder: str = "") -> None:
        """Make a folder, and those above it."""
        if not self.flat:
            with _told():
                self.fs.makedirs(self.at(folder), exist_ok=True)

    def drop(self, path: str) -> None:
        """Remove one file; none is fine."""
        with _told(), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.at(path))

    def remove(self, path: str) -> None:
        """Remove a file or a folder; none is fine."""
        with _told(), contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.at(path), recursive=True)

    def move(self, folder: str, to: str) -> None:
        """Give a folder another name.

        Raises:
            FileNotFoundError: there is none any more.
        """
        with _told():
            for path in self.fs.find(self.at(folder)):
                self.fs.mv(path, f"{self.at(to)}/{path.rsplit('/', 1)[-1]}")

    def sync(self, *paths: str) -> None:
        """What was written there stays, as it does where nothing is kept back."""

    def advice(self, error: OSError) -> str:
        """What may help."""
        if isinstance(error, PermissionError) or "credentials" in str(error):
            return "give credentials in your environment that may do this"
        return "see that its address is right and answers"

    def at(self, path: str) -> str:
        """A path of it as the file system takes it."""
        return f"{self.root}/{path}" if path else self.root


class Folder(Objects):
    """A folder of this machine, or one that is mounted here."""

    local = True

    def put(self, path: str, data: bytes) -> None:
        """Write a file where nobody looks yet."""
        with self.fs.open(self.at(path), "wb") as file:
            file.write(data)

    def write(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all: under another name first."""
        beside = drafted("0" * 32)
        try:
            self.put(beside, data)
            self.sync(beside)
            os.replace(self.at(beside), self.at(path))
        except OSError:
            with contextlib.suppress(OSError):
                self.drop(beside)
            raise

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file if there is none of that name; False if there is. It need not outlive a power cut."""
        try:
            at = os.open(self.at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(at, data)
        except OSError:
            os.unlink(self.at(path))
            raise
        finally:
            os.close(at)
        return True

    def renew(self, path: str, data: bytes) -> None:
        """Make a file as young as if it were written now, by the clock of whoever keeps it."""
        os.utime(self.at(path))

    def now(self) -> float:
        """The time by the clock of whoever keeps the folder: that of a file without a name."""
        with tempfile.TemporaryFile(dir=self.root) as file:
            return os.fstat(file.fileno()).st_mtime

    def _modified(self, path: str) -> float:
        return os.stat(self.at(path)).st_mtime

    def names(self, prefix: str = "") -> list[str]:
        """What lies in it, or of that what begins so."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self.root) if name.startswith(prefix))
        return []

    def having(self, name: str) -> list[str]:
        """The folders in it that have a file of this name."""
        with contextlib.suppress(NotADirectoryError):  # nothing is in a file
            return [folder for folder in self.names() if os.path.exists(self.at(f"{folder}/{name}"))]
        return []

    def advice(self, error: OSError) -> str:
        """What may help."""
        return "free space"

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder of that name."""
        return os.path.lexists(self.at(path))

    def make(self, folder: str = "") -> None:
        """Make a folder, and those above it, each of which stays."""
        path = Path(self.at(folder))
        new = [] if folder else [one for one in (path, *path.parents) if not one.exists()]
        path.mkdir(parents=True, exist_ok=True)
        if new:
            sync(*(one.parent for one in new))

    def move(self, folder: str, to: str) -> None:
        """Give a folder another name."""
        os.rename(self.at(folder), self.at(to))

    def sync(self, *paths: str) -> None:
        """What was written there stays, even if the power fails."""
        sync(*(self.at(path) for path in paths))


def place_of(url: str) -> Objects:
    """The place of that name.

    Raises:
        StoreError: there can be none.
    """
    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)  # others write, too
    except ImportError as error:
        package = known_implementations[protocol]["class"].partition(".")[0]
        raise StoreError(f"store {url!r} cannot be opened ({error}). Type: pip install {package}") from None
    except Exception as error:  # whatever a file system thinks of an address
        said = f"store {url!r} cannot be opened ({_why(error)})"
        raise StoreError(f"{said}. Give a directory or an fsspec URL.") from None
    if isinstance(fs, fsspec.implementations.local.LocalFileSystem):
        return Folder(fs, root)
    if protocol in BUCKETS and url.partition("://")[2][:1] in ("", "/"):
        raise StoreError(f"store {url!r} names no bucket. Give one: {protocol}://BUCKET/FOLDER.")
    return Objects(fs, root)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Whatever a file system's package raises is an OSError; that a bucket is missing is no missing file."""
    try:
        yield
    except OSError as error:
        if "NoSuchBucket" in type(error.__cause__).__name__:
            raise OSError(str(error)) from error
        raise
    except Exception as error:
        raise OSError(_why(error)) from error


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:LONG] or type(error).__name__


def _when(facts: dict[str, Any]) -> float:
    """When a listed file was written, by the name that its file system has for that; infinite if it says nothing."""
    names = ("mtime", "LastModified", "last_modified", "updated", "created")
    found = next((facts[name] for name in names if name in facts), None)
    return float("inf") if found is None else found.timestamp() if hasattr(found, "timestamp") else float(found)


def drafted(key: str) -> str:
    """A name for what is being written, which says by whom."""
    return f".{key}-{machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@functools.cache
def machine() -> str:
    """This machine as it runs now, and which processes it can see."""
    seen = [platform.node()]
    with contextlib.suppress(OSError):
        seen += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:8]


def ended(where: str, process: int) -> bool:
    """Whether it is known that a process has ended: it was on this machine, and is not there any more."""
    if where != machine() or os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # of another user
        return False
    with contextlib.suppress(OSError, IndexError):  # killed, and not buried yet
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False
