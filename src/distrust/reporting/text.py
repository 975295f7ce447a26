"""How numbers are written: percent and points with one decimal, a dash for what was not measured."""

from __future__ import annotations

from collections.abc import Sequence

from ..intervals import FEW, Share
from .rows import Estimate, finite


def percent(value: float | None) -> str:
    """0.8812 → "88.1"; None → "–". A true minus sign, so that columns line up."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−") if finite(value) else "–"


def reach(estimate: Estimate, unit: str = "share", few: int = FEW) -> str:
    """How far the runs behind a mean lie apart: of a few every value, of more their interval; of one its own."""
    if 1 < len(estimate.values) < few:
        return f"({', '.join(number(value, unit) for value in estimate.values)})"
    bounds = estimate.interval
    return f"[{', '.join(number(bound, unit) for bound in bounds)}]" if bounds else ""


def share(found: Share | None) -> str:
    """2 of 9 → "2 of 9 [6.3, 54.7]", the interval in percent."""
    return f"{found.hits} of {found.of} [{', '.join(map(percent, found.interval))}]" if found else "–"


def number(value: float | None, unit: str) -> str:
    """A metric's value in its unit: shares, points and ratios in percent."""
    if value is None or unit in ("share", "points", "ratio"):
        return percent(value)
    return f"{value:,.0f}" if unit == "count" else f"{value:.2f}"


def count(many: int, noun: str) -> str:
    """1, "seed" → "1 seed"; 3 → "3 seeds"."""
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def listing(words: Sequence[str], last: str = "and") -> str:
    """["a", "b", "c"] → "a, b and c"."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def duration(seconds: float) -> str:
    """Seconds in words: 5 s, 3 min, 2.1 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
