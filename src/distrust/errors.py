"""What can go wrong, by name. Each message says what was asked, what is true, and what to type."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any


class DistrustError(Exception):
    """Base of every error that Distrust raises on purpose; the command line prints it as `Name: message`."""

    facts: Mapping[str, Any] = {}  # what --json tells beside


class BadInput(DistrustError, ValueError):
    """The images, labels, options or files given cannot be used as asked."""


class NotFound(DistrustError, LookupError):
    """A name (method, model, layer, option, image set, key) that is not known here."""

    @classmethod
    def among(cls, what: str, asked: str, known: Iterable[str], more: str = "") -> NotFound:
        """Build the error for `asked`, with near matches: `no defense 'nda'. Did you mean 'nad'? Known: …. More`."""
        known = sorted(known)
        near = difflib.get_close_matches(asked, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        listing = ", ".join(known[:40]) + (f", … ({len(known)} in all)" if len(known) > 40 else "")
        return cls(f"no {what} {asked!r}.{hint} Known: {listing or 'none'}.{more and f' {more}'}")


class UnsafeFile(DistrustError):
    """A file that asks for more than tensors when it is opened; it was not loaded."""


class StoreError(DistrustError, OSError):
    """The store cannot be read or written; what was finished before is still there."""


class Diverged(DistrustError, ArithmeticError):
    """Training produced a loss that is not finite, or that exploded."""


class Skip(DistrustError):
    """A method that cannot apply here. An answer, stored and shown; not a failure."""


class Notice(UserWarning):
    """What a user should know of what was given, though it can be used; the command line prints it as it is."""


def notice(text: str) -> None:
    """Tell a user so."""
    warnings.warn(Notice(text), stacklevel=3)
