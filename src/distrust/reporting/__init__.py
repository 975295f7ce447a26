"""Reports: one HTML file that shows a study; a view of the store, measured elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .data import Report

__all__ = ["Report", "page"]

if TYPE_CHECKING:
    from .html import page


def __getattr__(name: str) -> Any:
    """Import the page when it is first asked for; tables and sentences need none of its figures."""
    if name != "page":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .html import page

    return page
