"""Archives: stages on their way from one store to another, in a zip file or a folder; what is odd is not read."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from ..bounds import RATIO, check_bound
from ..errors import BadInput, NotFound, StoreError
from .records import KEY, RECORD, Damaged, Files, Record, contents, opened
from .store import FORMAT, SIGN

INSIDE = "runs"  # the store in an archive, which so is a folder to work in, once it is unpacked
SAFE = re.compile(r"(?:\w[\w.+ -]*/)*\w[\w.+ -]*|runs/\.format")  # names in an archive, as we write them
LINK = 0o12  # the kind of an entry that is none


class Packed(Mapping[str, bytes]):
    """The files of an archive or a folder by name, read when they are asked for.

    Args:
        names: theirs.
        read: gives one.
    """

    def __init__(self, names: Collection[str], read: Callable[[str], bytes]) -> None:
        self.names, self.read = frozenset(names), read

    def __getitem__(self, name: str) -> bytes:
        if name not in self.names:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.names))

    def __len__(self) -> int:
        return len(self.names)


@contextlib.contextmanager
def packing(path: Path, zipped: bool) -> Iterator[Callable[[str, bytes], None]]:
    """Gives what writes a file of this name and content into a new archive or folder."""
    if not zipped:
        path.mkdir()

        def write(name: str, data: bytes) -> None:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)

        yield write
        return
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:

        def add(name: str, data: bytes) -> None:
            text = not name.endswith(".safetensors")  # weights hardly pack
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED)

        yield add


@contextlib.contextmanager
def unpacking(source: str | Path) -> Iterator[Packed]:
    """The files of what `export` wrote.

    Raises:
        NotFound, BadInput, StoreError: as `Store.import_`.
    """
    source = Path(source)
    if not source.exists():
        raise NotFound(f"no archive {str(source)!r}. Give a file or a folder that distrust export has written.")
    with contextlib.ExitStack() as stack:
        if source.is_dir():
            found = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
            sizes = {path.relative_to(source).as_posix(): path.stat().st_size for path in found}
            files = Packed(sizes, lambda name: (source / name).read_bytes())
        else:
            try:
                archive = stack.enter_context(zipfile.ZipFile(source))
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                raise BadInput(f"{source} is no archive that can be read ({error}). Fetch it again.") from None
            sizes = _sizes(source, archive)
            files = Packed(sizes, archive.read)
        sign = files.get(f"{INSIDE}/{SIGN}")
        if sign is None:
            raise BadInput(f"{source} is nothing that distrust export has written: it has no {INSIDE}/{SIGN}.")
        if sign.strip() != str(FORMAT).encode():
            raise StoreError(f"{source} was made by another version of Distrust. Export it again with this one.")
        try:
            yield files
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:  # encrypted is the last one
            raise BadInput(f"{source} is damaged ({error}). Fetch it again.") from None


def _sizes(source: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Files of an archive by name, with what they unpack to, once none is odd."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    names = [entry.filename for entry in entries]
    twice = {name for name, n in Counter(names).items() if n > 1}
    odd = [e.filename for e in entries if not SAFE.fullmatch(e.filename) or e.external_attr >> 28 == LINK]
    for name in (*odd, *twice):
        raise BadInput(f"{source} is an odd archive ({name!r} in it), and nothing of it is read. Export it again.")
    whole = sum(entry.file_size for entry in entries)
    check_bound("unpacked", whole, source, "bytes unpacked", RATIO * source.stat().st_size)
    return {entry.filename: entry.file_size for entry in entries}


def verified(key: str, files: Mapping[str, bytes]) -> tuple[Record, Files]:
    """A stage in an archive, each of its files held against its checksum.

    Raises:
        Damaged: it is not there whole, or has no checksums.
    """
    here = f"{INSIDE}/{key}"
    if f"{here}/{RECORD}" not in files:
        raise Damaged(key, f"{RECORD} is gone")
    record = opened(key, files[f"{here}/{RECORD}"])
    if "files" not in record:
        raise Damaged(key, "it has no checksums")
    if RECORD in record["files"]:
        raise Damaged(key, f"{RECORD} is gone")
    return record, contents(key, record["files"], lambda file: None if file == RECORD else files.get(f"{here}/{file}"))


def staged(name: str) -> bool:
    """A file of a stage, by its name in an archive."""
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == INSIDE and KEY.fullmatch(parts[1]) is not None
