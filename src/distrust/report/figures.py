"""Figures: ACC against ASR as inline SVG, one for each attack."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from .aggregate import Cell, attacked, finite, is_teacher, varying

INK = "#010203"  # stands for the page's text colour until the SVG is written


class Mark(NamedTuple):
    """How a defence is drawn; shape and colour both tell, so that colour alone never has to."""

    shape: str
    glyph: str
    color: str


# Middle tones: each keeps 3:1 against the light and against the dark page.
MARKS = (
    Mark("o", "●", "#7d8590"), Mark("s", "■", "#3d7fd6"), Mark("^", "▲", "#cf5c36"), Mark("D", "◆", "#1f9273"),
    Mark("v", "▼", "#a35bc2"), Mark("P", "✚", "#a87c16"), Mark("X", "✖", "#d1477e"), Mark("*", "★", "#2b93a8"),
)  # fmt: skip


def marks(defenses: Sequence[str]) -> dict[str, Mark]:
    """A mark per defence, in order; they repeat after eight."""
    return {name: MARKS[i % len(MARKS)] for i, name in enumerate(defenses)}


def frontiers(rows: Sequence[Cell], defenses: Sequence[str]) -> list[dict[str, str]]:
    """Draw ACC against ASR for every attack.

    Args:
        rows: from `over_seeds`.
        defenses: in the order of the legend.

    Returns:
        Per attack {"name", "svg"}; the same rows give the same bytes.
    """
    shown = [r for r in rows if attacked(r) and r["state"] == "done" and finite(r["acc"]) and finite(r["asr"])]
    beside = varying(shown)
    groups: dict[str, list[Cell]] = {}
    for row in shown:
        groups.setdefault(" · ".join([row["attack"], *(str(row[axis]) for axis in beside)]), []).append(row)
    floor = min((row["acc"] for row in shown), default=0.0)
    return [{"name": name, "svg": _svg(name, group, marks(defenses), floor)} for name, group in groups.items()]


def _svg(name: str, rows: Sequence[Cell], drawn: dict[str, Mark], floor: float) -> str:
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "distrust", "font.size": 9, "text.color": INK}
    axes_style = {"axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    with rc_context(style | axes_style):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for row in rows:
            _point(axes, row, drawn[row["defense"]])
        axes.set(xlabel="ASR, % (left is cleaner)", ylabel="ACC, %", xlim=(-4, 104))
        axes.set_ylim(max(0, 10 * int(10 * floor - 0.5)) - 1, 101)
        axes.xaxis.set_major_locator(MultipleLocator(20))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.1, linewidth=0.6)
        axes.set_axisbelow(True)
        file = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), f"ACC against ASR for {name}; the table below has the numbers")


def _point(axes: Any, row: Cell, mark: Mark) -> None:
    x, y = 100 * row["asr"], 100 * row["acc"]
    for rate, line in (("asr", axes.hlines), ("acc", axes.vlines)):
        if bounds := row[f"{rate}_interval"]:
            low, high = (min(max(100 * bound, 0), 100) for bound in bounds)
            line(y if rate == "asr" else x, low, high, color=mark.color, linewidth=0.9, alpha=0.55)
    face = "none" if is_teacher(row) else mark.color  # hollow: the teacher itself
    axes.plot(x, y, mark.shape, color=mark.color, markerfacecolor=face, markersize=6.5, clip_on=False)


def _inline(svg: str, label: str) -> str:
    """Keep the <svg> element alone, let the page size and colour it, and give it a name for screen readers."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) (?:width="[^"]*" height="[^"]*"|height="[^"]*" width="[^"]*")', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
