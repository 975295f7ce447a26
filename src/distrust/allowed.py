"""Allowed: which files of Python may be run. A name that stands in a study, a record or a checkpoint runs nothing."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from .bounds import bounded
from .errors import NotFound, UnsafeFile

FACTORY = re.compile(r"(.+\.py):(\w+)")  # FILE.py:NAME
_TYPED = re.compile(r"""([^\s"'\[\],=>]+\.py):\w""")  # the same in what somebody typed
Files = str | Path | Iterable[str | Path]

_allowed: ContextVar[frozenset[Path] | None] = ContextVar("allowed", default=None)  # None: the caller's own words


@contextmanager
def code_from(files: Files = ()) -> Iterator[None]:
    """Within, names come from somebody's data: only these files are run, and those that an outer `code_from` allows.

    Args:
        files: a path or several.
    """
    several = [files] if isinstance(files, str | Path) else files
    token = _allowed.set(frozenset(map(_resolved, several)) | (_allowed.get() or frozenset()))
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> tuple[Path, ...]:
    """The files that may be run where names come from data."""
    return tuple(sorted(_allowed.get() or ()))


def check_allowed(names: Iterable[str], where: str = "") -> None:
    """Refuse names `FILE.py:NAME` whose file nobody allowed; outside of `code_from` they are the caller's own words.

    Raises:
        UnsafeFile: says what to type, if the file is trusted.
    """
    known = _allowed.get()
    refused = [] if known is None else [name for name in names if _resolved(_file(name)) not in known]
    if refused:
        files = " ".join(f"allow_code={str(_file(name))!r}" for name in dict.fromkeys(refused))
        told = f"{where} names code" if where else "this is code"
        raise UnsafeFile(f"{told} that would be run: {', '.join(refused)}. Not run. If you trust it: {files}.")


def typed(*texts: object) -> list[str]:
    """The files of code that somebody names on the command line, as `net.py:make` or in the options of a selector."""
    whole = [match[1] for text in texts if (match := FACTORY.fullmatch(str(text)))]
    return [*whole, *(file for text in texts for file in _TYPED.findall(str(text)))]


def factories(value: Any) -> Iterator[str]:
    """Every `FILE.py:NAME` among plain values, however deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str) and FACTORY.fullmatch(value):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from factories(part)


def digest_of(file: str | Path) -> str:
    """A hash of a file of code and of the modules beside it that it imports, and they import in turn.

    Raises:
        NotFound: no such file.
    """
    own, *others = (hashlib.sha256(content).hexdigest() for content in code_in(file).values())
    return hashlib.sha256("".join([own, *sorted(others)]).encode()).hexdigest() if others else own


def code_in(file: str | Path) -> dict[Path, bytes]:
    """A file of code and the modules beside it that it imports, and they import in turn.

    Raises:
        NotFound: no such file.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise NotFound.among("file", str(file), map(str, path.parent.glob("*.py")))
    found = {path: bounded(path, "code")}
    waiting = [path]
    for one in waiting:  # grows on the way
        for beside in _beside(one, found[one]):
            if beside not in found:
                found[beside] = bounded(beside, "code")
                waiting.append(beside)
    return found


def _beside(path: Path, content: bytes) -> list[Path]:
    """Modules of the same folder that a file imports."""
    try:
        nodes = [*ast.walk(ast.parse(content))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    parts = [name.split(".") for name in dict.fromkeys(names)]
    near = [path.parent.joinpath(*words) for words in parts]
    files = [file for place in near for file in (place.with_suffix(".py"), place / "__init__.py")]
    files += [path.parent / words[0] / "__init__.py" for words in parts]
    return [file for file in files if file.is_file()]


def _file(name: str) -> Path:
    match = FACTORY.fullmatch(name)
    return Path(match[1] if match else name)


def _resolved(file: str | Path) -> Path:
    return Path(file).expanduser().resolve()
