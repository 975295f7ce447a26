"""Bounds: how much a file that somebody brings may ask for, said before any memory is taken for it."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import BadInput

MOST = {  # of what → at most so much; each can be raised by the environment variable DISTRUST_MOST_…
    "pixels": 2**26,  # of one picture
    "unpacked": 2**28,  # bytes that an archive may grow to, and RATIO times its own size more
    "classes": 10**5,
    "parameters": 2**28,  # numbers of a network that is built by name
    "number": 2000,  # in the name of a network: its depth, its width
    "pickle": 2**28,  # bytes of one pickle that are looked through
    "text": 2**26,  # bytes of a list
    "record": 2**24,  # bytes of a cell or of what is written about a trigger
    "study": 2**19,  # bytes of a study, which is parsed at half of that a second
    "dots": 1000,  # in a line of a study: what reads it takes time and memory by their square
    "code": 2**19,  # bytes of Python that are parsed, for which a thousand times the memory is taken
}
RATIO = 50  # an archive of pictures hardly packs to less than a fiftieth


def most(what: str) -> int:
    """The bound of that name: the user's own, or ours.

    Raises:
        BadInput: the environment variable is no whole number.
    """
    own = os.environ.get(f"DISTRUST_MOST_{what.upper()}")
    if own is None:
        return MOST[what]
    try:
        return int(own)
    except ValueError:
        raise BadInput(f"DISTRUST_MOST_{what.upper()}={own} is no whole number. Give one, or leave it out.") from None


def check_bound(what: str, asked: int, source: object, said: str, beside: int = 0) -> None:
    """Refuse what asks for more than is taken.

    Args:
        what: the bound, a name of `MOST`.
        asked: how much the file asks for.
        source: the file, for the message.
        said: what it asks for, as "pixels".
        beside: what it may ask for beside the bound.

    Raises:
        BadInput: names the bound, and how a user who means it raises it.
    """
    if asked > (bound := most(what) + beside):
        raise BadInput(
            f"{source} asks for {asked:,} {said}; at most {bound:,} are taken. If it is meant so, say it in the "
            f"environment: DISTRUST_MOST_{what.upper()}={asked}."
        )


def bounded(path: str | Path, what: str = "text") -> bytes:
    """What a file holds, refused by its size before it is read.

    Raises:
        BadInput: as `check_bound`.
    """
    check_bound(what, os.stat(path).st_size, path, "bytes")
    return Path(path).read_bytes()
