"""Pickles: what one would import if it were opened, read from its opcodes without running them; and odd archives."""

from __future__ import annotations

import contextlib
import io
import pickletools
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .bounds import most

HARMLESS = re.compile(  # what torch.load(weights_only=True) takes, as far as checkpoints have it
    r"torch\.(\w+Storage|storage\.\w*Storage|_utils\._rebuild\w+|Size|device|Tensor|bool|[a-z]+\d+\w*"
    r"|nn\.parameter\.Parameter)"
    r"|collections\.(OrderedDict|Counter|defaultdict)|_codecs\.encode|builtins\.(bytearray|set|complex)"
    r"|numpy(\._?core\.multiarray\.(scalar|_reconstruct)|\.dtype|\.ndarray|\.dtypes\.\w+)|argparse\.Namespace|pathlib\.PosixPath"
)
MAGIC = b"\n\x6c\xfc\x9cF\xf9 j\xa8P\x19"  # begins what torch wrote before version 1.6, within its first pickle
LEGACY = 5  # pickles at the beginning of such a file; bytes of tensors follow
COMPUTED = "a name that it computes"
LAYING = {"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}
CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
FIRST = re.compile(rb"\x80[\x00-\x05]|[(c}\]lIVSX]")  # how a pickle may begin
LAMBDA = re.compile(rb'"class_name":\s*"(Lambda|__lambda__)"')
ENCRYPTED = 1  # a bit in the flags of an archive's entry
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def entries(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip archive lists; [] if it is none that can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception:  # a damaged file can fail in any way
        return []


def asked_by(path: Path) -> list[str]:
    """Names that opening a file would import beside tensors and plain data, sorted; [] if it is no pickle.

    Looked through are the file itself, or every pickle in a zip or tar archive, whatever its checksum and flags say.
    What was found before a pickle breaks counts: opening it would have run that far.
    """
    names = {name for content, sure in _pickles(path) for name in _names(content, sure)}
    safe = torch.serialization.get_safe_globals()  # what the user has allowed
    known = {f[1] if isinstance(f, tuple) else f"{f.__module__}.{f.__qualname__}" for f in safe}
    return sorted(name for name in names if name not in known and not HARMLESS.fullmatch(name))


def oddity(path: Path) -> str:
    """What is odd about the pickles of a zip archive, by which files hide from scanners; "" of nothing."""
    listed = entries(path)
    names = [entry.filename for entry in listed]
    checked = any(entry.CRC for entry in listed)  # torch.save can be told to leave checksums out
    with path.open("rb") as file:
        for entry in listed:
            if not entry.filename.endswith(".pkl"):
                continue
            content, name = _content(file, entry)
            if names.count(entry.filename) > 1:
                return f"{entry.filename} is there twice"
            if name and name != entry.orig_filename.encode(errors="replace"):
                return f"{entry.filename} has two names"
            if entry.flag_bits & ENCRYPTED or entry.compress_type not in PACKED:
                return f"{entry.filename} is packed in another way than torch does it"
            if checked and name and len(content) == entry.file_size and zlib.crc32(content) != entry.CRC:
                return f"the checksum of {entry.filename} is wrong"
    return ""


def damage(path: Path) -> str:
    """The first entry of a zip archive whose bytes are not those of its checksum; "" of a sound one.

    `torch.load` does not look. Only what is not packed is read: unpacking finds out by itself.
    """
    listed = entries(path)
    plain = [entry for entry in listed if entry.compress_type == zipfile.ZIP_STORED]
    with path.open("rb") as file:
        for entry in plain if any(entry.CRC for entry in listed) else ():
            found, left = 0, entry.compress_size
            with contextlib.suppress(OSError, ValueError):
                _to(file, entry)
                while left > 0 and (part := file.read(min(left, 2**22))):
                    left, found = left - len(part), zlib.crc32(part, found)
            if left or found != entry.CRC:
                return entry.filename
    return ""


def keras_code(path: Path) -> str:
    """What a Keras file with a Lambda layer is, which holds Python's byte code; "" of any other."""
    with path.open("rb") as file:
        content, kind = file.read(most("pickle")), "an HDF5 file of Keras"
        if found := [entry for entry in entries(path) if entry.filename == "config.json"]:
            content, kind = _content(file, found[0])[0], "a Keras archive"
        elif not content.startswith(b"\x89HDF"):
            return ""
    return f"{kind} with a Lambda layer, which is a program" if LAMBDA.search(content) else ""


def protocol_of(path: Path) -> int:
    """The protocol of the pickle in a zip archive that is whole; 0 where none says so."""
    for content, _ in _pickles(path) if entries(path) else ():
        with contextlib.suppress(Exception):  # it may break in any way
            if content[:1] == b"\x80" and [*_read(io.BytesIO(content))]:
                return content[1]
    return 0


def _pickles(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The pickles in a file, and whether each is one for certain."""
    if found := entries(path):
        with path.open("rb") as file:
            for entry in found:
                content, _ = _content(file, entry, 16)
                if entry.filename.endswith(".pkl") or content.startswith(b"\x80"):
                    yield _content(file, entry)[0], True
        return
    with contextlib.suppress(tarfile.TarError, OSError, EOFError, ValueError), tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.isreg() and (part := tar.extractfile(member)):
                yield part.read(most("pickle")), False
        return
    with path.open("rb") as file:
        if FIRST.match(file.read(2)):
            file.seek(0)
            yield file.read(most("pickle")), False


def _to(file: Any, entry: zipfile.ZipInfo) -> bytes:
    """Go to where an entry's bytes begin; returns the name that stands before them."""
    file.seek(entry.header_offset)
    head = file.read(30)
    name = file.read(int.from_bytes(head[26:28], "little"))
    file.seek(int.from_bytes(head[28:30], "little"), io.SEEK_CUR)
    return bytes(name)


def _content(file: Any, entry: zipfile.ZipInfo, length: int | None = None) -> tuple[bytes, bytes]:
    """What an entry holds, as torch reads it: no checksum and no flag is asked. And the name before it."""
    length = most("pickle") if length is None else length
    raw, name = b"", b""
    with contextlib.suppress(zlib.error, OSError, ValueError):  # of a place or a length that cannot be
        name = _to(file, entry)
        raw = file.read(max(min(entry.compress_size, length), 0))
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, length)
    return raw, name


def _names(content: bytes, sure: bool) -> list[str]:
    """The names in the pickles that stand one after another in `content`; [] of bytes that are none."""
    stream, names, calls, ends = io.BytesIO(content), list[str](), 0, 0
    try:
        while stream.tell() < len(content) and not (MAGIC in content[:32] and ends == LEGACY):
            for code, name in _read(stream):
                names += [name] if name else []
                calls += code in CALLS
            ends += 1
    except Exception:  # it can break in any way
        pass
    return names if sure or ends or calls or content.startswith(b"\x80") else []


def _read(stream: io.BytesIO) -> Iterator[tuple[str, str]]:
    """The opcodes of one pickle, each with the name that it imports, if it does.

    A stack is kept, of texts as far as they are known: names may be put together from what was laid away before.
    """
    stack, memo, mark = list[Any](), dict[Any, Any](), object()
    for code, argument, _ in pickletools.genops(stream):
        name, made = "", None
        if code.name in ("GLOBAL", "INST"):
            name = _named(*str(argument).split(" ", 1))
        elif code.name == "STACK_GLOBAL":
            name = _named(*stack[-2:])
        elif code.name.startswith("EXT"):
            name = f"copyreg.extension {argument}"
        elif code.name in ("GET", "BINGET", "LONG_BINGET"):
            made = memo.get(argument)
        elif code.name in LAYING:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code.name == "DUP":
            made = stack[-1]
        elif isinstance(argument, str):
            made = argument
        before, after = code.stack_before, [made] * len(code.stack_after)
        if code.name in LAYING:
            before, after = [], []
        elif code.name == "DUP":
            before, after = [], [made]
        elif code.name == "MARK":
            after = [mark]
        elif pickletools.markobject in before:
            while stack.pop() is not mark:
                pass
            before = before[: before.index(pickletools.markobject)]
        if len(before) > len(stack):
            raise ValueError("no pickle: it takes more than is there")
        del stack[len(stack) - len(before) :]
        stack += after
        yield code.name, name


def _named(module: Any = None, name: Any = None) -> str:
    """A global, as `module.name`, by today's names of what Python 2 had."""
    if not (isinstance(module, str) and isinstance(name, str)):
        return COMPUTED
    if not all(part.isidentifier() for text in (module, name) for part in text.split(".")):
        raise ValueError("no name of Python: these are other bytes")
    return f"{'builtins' if module == '__builtin__' else module}.{name}"
