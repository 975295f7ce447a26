"""Reports: one HTML file that shows a study; a view of the store, measured elsewhere."""

from __future__ import annotations

from .data import Report
from .html import page

__all__ = ["Report", "page"]
