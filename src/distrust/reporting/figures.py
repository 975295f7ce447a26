"""Figures as inline SVG: ACC against ASR for each attack."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from ..intervals import FEW
from ..selectors import Selector, Tune, parse_one
from .rows import Row, finite, given, is_teacher, label, varying

INK = "#010203"  # stands for the page's text colour until the SVG is written
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "distrust", "font.size": 9} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
)

Mark = tuple[str, str, str]  # shape, glyph, colour: the first two tell as well, so that colour alone never has to

# Middle tones: each keeps 3:1 against the light and against the dark page.
COLORS = ["#7d8590", "#3d7fd6", "#cf5c36", "#1f9273", "#a35bc2", "#a87c16", "#d1477e", "#2b93a8", "#5f8a2d", "#9a6a4f"]
MARKS: list[Mark] = list(zip("os^DvPX*<H", "●■▲◆▼✚✖★◀⬢", COLORS, strict=True))


def marks(defenses: Iterable[str]) -> dict[str, Mark]:
    """A mark per method, in order, which its variants share; they repeat after ten."""
    return dict(zip(dict.fromkeys(parse_one(text).name for text in defenses), itertools.cycle(MARKS), strict=False))


def frontiers(rows: Sequence[Row], defenses: Sequence[str]) -> list[dict[str, str]]:
    """Draw ACC against ASR for every attack against which a defence was tried, and for every head of an encoder.

    Variants of a method have its mark; those that differ in numbers alone are joined in their order.

    Args:
        rows: from `over_seeds`.
        defenses: in the order of the legend.

    Returns:
        Per attack {"name", "svg"}; the same rows give the same bytes.
    """
    shown = [r for r in rows if given(r.axes, "attack") and {"acc", "asr"} <= r.values.keys()]
    heads = varying((r.axes for r in shown if given(r.axes, "encoder")), ["student"])
    beside = [*varying(r.axes for r in shown), *heads]
    groups: dict[str, list[Row]] = {}
    for row in shown:
        groups.setdefault(label(row.axes, beside, " · "), []).append(row)
    accs = [row.values["acc"].mean for row in shown] or [0.0]
    within = min(accs), max(accs)  # all figures have one scale
    return [
        {"name": name, "svg": _svg(name, group, marks(defenses), within)}
        for name, group in groups.items()
        if any(given(row.axes, "defense") for row in group)
    ]


def _svg(name: str, rows: Sequence[Row], drawn: dict[str, Mark], within: tuple[float, float]) -> str:
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        axes = figure.subplots()
        joined = curves(rows)
        for row in rows:
            shape, _, color = drawn[_variant(row).name]
            _point(axes, row, shape, color, _told(row, joined))
        for curve in joined:
            points = [(100 * row.values["asr"].mean, 100 * row.values["acc"].mean) for row in curve]
            axes.plot(*zip(*points, strict=True), color=drawn[_variant(curve[0]).name][-1], linewidth=1.1)
        low, high = (10 * math.floor(10 * within[0] - 0.5), 10 * math.ceil(10 * within[1] + 0.2))
        span = max(0, low) - 1, min(100, high) + 1
        axes.set(xlabel="ASR, % (left is cleaner)", ylabel="ACC, %", xlim=(-4, 104), ylim=span, axisbelow=True)
        axes.xaxis.set_major_locator(MultipleLocator(20))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.1, linewidth=0.6)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    # the <svg> element alone, which the page sizes and colours, with a name for screen readers
    svg = file.getvalue()
    named = f'<svg role="img" aria-label="{escape(f"ACC against ASR for {name}; the table below has the numbers")}" '
    opening, rest = svg[svg.index("<svg ") :].replace(INK, "currentColor").split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening).replace("<svg ", named) + ">" + rest


def curves(rows: Sequence[Row]) -> list[list[Row]]:
    """Variants of one method and one student that set the same options to different numbers, two or more, in order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        options = _variant(row).options
        if options and all(map(finite, options.values())):
            at = (_variant(row).name, *options, row.axes["student"], row.axes["distiller"])
            groups.setdefault(at, []).append(row)
    return [
        sorted(rows, key=lambda row: [*_variant(row).options.values()]) for rows in groups.values() if len(rows) > 1
    ]


def _variant(row: Row) -> Selector:
    """The defence and its options, but for those that were tuned."""
    selector = parse_one(row.axes["defense"])
    return Selector(selector.name, {k: v for k, v in selector.options.items() if not isinstance(v, Tune)})


def _told(row: Row, joined: Sequence[list[Row]]) -> str:
    """What tells a variant from others: its options; on a curve the first that changes along it, and once the name."""
    variant, curve = _variant(row), next((curve for curve in joined if row in curve), [])
    options = variant.options
    if curve:
        others = [_variant(other).options for other in curve]
        options = next(({k: v} for k, v in options.items() if any(other[k] != v for other in others)), {})
    told = ", ".join(f"{k} {v:g}" if finite(v) else f"{k} {v}" for k, v in options.items())
    return f"{variant.name}, {told}" if curve and row is curve[0] else told


def _point(axes: Any, row: Row, shape: str, color: str, told: str) -> None:
    asr, acc = row.values["asr"], row.values["acc"]
    x, y = 100 * asr.mean, 100 * acc.mean
    if 1 < len(asr.values) < FEW:
        runs = ([100 * value for value in some.values] for some in (asr, acc))
        axes.plot(*runs, ".", color=color, markersize=4, alpha=0.6, clip_on=False)
    for at, some, line in ((y, asr, axes.hlines), (x, acc, axes.vlines)):
        if some.interval and len(some.values) >= FEW:
            line(at, *(100 * bound for bound in some.interval), color=color, linewidth=0.9, alpha=0.55)
    face = "none" if is_teacher(row.axes) else color  # hollow: the teacher itself
    axes.plot(x, y, shape, color=color, markerfacecolor=face, markersize=6.5, clip_on=False)
    if told:
        axes.annotate(told, (x, y), (5, 4), textcoords="offset points", fontsize=6, color=color, parse_math=False)
