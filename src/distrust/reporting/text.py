"""How numbers are written: percent and points with one decimal, a dash for what was not measured."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import finite


def percent(value: float | None) -> str:
    """0.8812 → "88.1"; None → "–". A true minus sign, so that columns line up."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−") if finite(value) else "–"


def interval(bounds: Sequence[float] | None) -> str:
    """[0.87, 0.89] → "[87.0, 89.0]"; None → ""."""
    return f"[{percent(bounds[0])}, {percent(bounds[1])}]" if bounds else ""


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
