"""Figures as inline SVG: ACC against ASR for each attack."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from ..selectors import Selector, Tune, parse_one
from .rows import Row, finite, given, is_teacher, label, varying

INK = "#010203"  # stands for the page's text colour until the SVG is written
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "distrust", "font.size": 9, "text.color": INK}


class Mark(NamedTuple):
    """How a defence is drawn; shape and colour both tell, so that colour alone never has to."""

    shape: str
    glyph: str
    color: str


# Middle tones: each keeps 3:1 against the light and against the dark page.
MARKS = [
    Mark(*mark)
    for mark in zip(
        "os^DvPX*<H", "●■▲◆▼✚✖★◀⬢",
        ("#7d8590", "#3d7fd6", "#cf5c36", "#1f9273", "#a35bc2", "#a87c16", "#d1477e", "#2b93a8", "#5f8a2d", "#9a6a4f"),
        strict=True,
    )
]  # fmt: skip


def marks(defenses: Iterable[str]) -> dict[str, Mark]:
    """A mark per method, in order, which its variants share; they repeat after ten."""
    names = dict.fromkeys(parse_one(text).name for text in defenses)
    return {name: MARKS[i % len(MARKS)] for i, name in enumerate(names)}


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
    axes_style = {"axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    with rc_context(STYLE | axes_style):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        axes = figure.subplots()
        joined = curves(rows)
        for row in rows:
            _point(axes, row, drawn[_variant(row).name], _told(row, joined))
        for curve in joined:
            points = [(100 * row.values["asr"].mean, 100 * row.values["acc"].mean) for row in curve]
            axes.plot(*zip(*points, strict=True), color=drawn[_variant(curve[0]).name].color, linewidth=1.1)
        axes.set(xlabel="ASR, % (left is cleaner)", ylabel="ACC, %", xlim=(-4, 104))
        low, high = (10 * math.floor(10 * within[0] - 0.5), 10 * math.ceil(10 * within[1] + 0.2))
        axes.set_ylim(max(0, low) - 1, min(100, high) + 1)
        axes.xaxis.set_major_locator(MultipleLocator(20))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.1, linewidth=0.6)
        axes.set_axisbelow(True)
        return _saved(figure, f"ACC against ASR for {name}; the table below has the numbers")


def curves(rows: Sequence[Row]) -> list[list[Row]]:
    """Variants of one method and one student that set the same options to different numbers, two or more, in order."""
    groups: dict[tuple[Any, ...], list[tuple[list[float], Row]]] = {}
    for row in rows:
        options = _variant(row).options
        if options and all(finite(value) for value in options.values()):
            at = (_variant(row).name, *options, row.axes["student"], row.axes["distiller"])
            groups.setdefault(at, []).append((list(options.values()), row))
    return [[row for _, row in sorted(group, key=lambda one: one[0])] for group in groups.values() if len(group) > 1]


def _variant(row: Row) -> Selector:
    """The defence and its options, but for those that were tuned."""
    selector = parse_one(row.axes["defense"])
    return Selector(selector.name, {k: v for k, v in selector.options.items() if not isinstance(v, Tune)})


def _told(row: Row, joined: Sequence[list[Row]]) -> str:
    """What tells a variant from others: its options; on a curve the first that changes along it, and once the name."""
    variant, curve = _variant(row), next((curve for curve in joined if row in curve), [])
    options = variant.options
    if curve:
        changing = [k for k in options if len({_variant(other).options[k] for other in curve}) > 1]
        options = {k: options[k] for k in changing[:1]}
    told = ", ".join(f"{k} {v:g}" if finite(v) else f"{k} {v}" for k, v in options.items())
    return f"{variant.name}, {told}" if curve and row is curve[0] else told


def _point(axes: Any, row: Row, mark: Mark, told: str) -> None:
    asr, acc = row.values["asr"], row.values["acc"]
    x, y = 100 * asr.mean, 100 * acc.mean
    for at, (_, bounds), line in ((y, asr, axes.hlines), (x, acc, axes.vlines)):
        if bounds:
            low, high = (min(max(100 * bound, 0), 100) for bound in bounds)
            line(at, low, high, color=mark.color, linewidth=0.9, alpha=0.55)
    face = "none" if is_teacher(row.axes) else mark.color  # hollow: the teacher itself
    axes.plot(x, y, mark.shape, color=mark.color, markerfacecolor=face, markersize=6.5, clip_on=False)
    if told:
        axes.annotate(told, (x, y), (5, 4), textcoords="offset points", fontsize=6, color=mark.color)


def _saved(figure: Figure, label: str) -> str:
    """Keep the <svg> element alone, let the page size and colour it, and give it a name for screen readers."""
    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) (?:width="[^"]*" height="[^"]*"|height="[^"]*" width="[^"]*")', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
