"""ACC against ASR for each attack: on Matplotlib axes, and as inline SVG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MultipleLocator
from matplotlib.transforms import Bbox

from ..intervals import FEW
from ..selectors import Selector, Tune
from .labels import read
from .rows import Row, finite, given, is_teacher, label, varying

FAINT = 0.35  # of what a flag forbids to believe
INK = "#010203"  # stands for the page's text colour until the SVG is written
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "distrust", "font.size": 9} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
)

Mark = tuple[str, str, str]  # shape, glyph, colour: the first two tell as well, so that colour alone never has to

# Middle tones: each keeps 3:1 against the light and against the dark page.
COLORS = ["#7d8590", "#3d7fd6", "#cf5c36", "#1f9273", "#a35bc2", "#a87c16", "#d1477e", "#2b93a8", "#5f8a2d", "#9a6a4f"]
SHAPES = list(zip("os^DvPX*<H>pd1", "●■▲◆▼✚✖★◀⬢▶⬟♦Y", strict=True))
NEAR = 6  # points between a point and its label; farther ones get a line
AROUND = [(far, math.pi * turn / 8) for far in (NEAR, 14, 24, 36, 50, 66, 84, 104) for turn in range(-2, 14)]
Label = tuple[float, float, str, str]  # where, what, colour


def marks(defenses: Iterable[str]) -> dict[str, Mark]:
    """A mark per method, in order, which its variants share; after fourteen, shapes come again in other colours."""
    names = dict.fromkeys(read(text).name for text in defenses)
    return {name: mark(i) for i, name in enumerate(names)}


def mark(i: int) -> Mark:
    """The i-th, from 0."""
    return (*SHAPES[i % len(SHAPES)], COLORS[(i + i // 10) % 10])


def frontiers(rows: Sequence[Row], defenses: Sequence[str]) -> list[dict[str, str]]:
    """Draw ACC against ASR for every attack against which a defence was tried, and for every head of an encoder.

    Variants of a method have its mark; those that differ in numbers alone are joined in their order.

    Args:
        rows: from `over_seeds`.
        defenses: in the order of the legend.

    Returns:
        Per attack {"name", "svg"}; the same rows give the same bytes.
    """
    drawn, groups = marks(defenses), panels(rows)
    within = reach_of(groups)
    return [{"name": name, "svg": _svg(name, group, drawn, within)} for name, group in groups.items()]


def panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """What is drawn together, by its name: an attack against which a defence was tried, and a head of an encoder."""
    shown = [r for r in rows if given(r.axes, "attack") and {"acc", "asr"} <= r.values.keys()]
    heads = varying((r.axes for r in shown if given(r.axes, "encoder")), ["student"])
    beside = [*varying(r.axes for r in shown), *heads]
    groups: dict[str, list[Row]] = {}
    for row in shown:
        groups.setdefault(label(row.axes, beside, " · "), []).append(row)
    return {name: group for name, group in groups.items() if any(given(row.axes, "defense") for row in group)}


def reach_of(groups: Mapping[str, Sequence[Row]]) -> tuple[float, float]:
    """The least and the largest ACC of any run: all panels have one scale."""
    accs = [acc for rows in groups.values() for row in rows for acc in row.values["acc"].values] or [0.0]
    return min(accs), max(accs)


def _svg(name: str, rows: Sequence[Row], drawn: Mapping[str, Mark], within: tuple[float, float]) -> str:
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        label_variants = frontier(figure.subplots(), rows, drawn, within)
        figure.draw_without_rendering()
        label_variants()
        return inline(figure, f"ACC against ASR for {name}; the table below has the numbers")


def inline(figure: Figure, told: str) -> str:
    """The <svg> element alone, which the page sizes and colours, with words for screen readers; drawn in STYLE."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    opening, rest = svg[svg.index("<svg ") :].replace(INK, "currentColor").split(">", 1)
    named = f'<svg role="img" aria-label="{escape(told)}" '
    return re.sub(r' (width|height)="[^"]*"', "", opening).replace("<svg ", named) + ">" + rest


def frontier(
    axes: Axes, rows: Sequence[Row], drawn: Mapping[str, Mark], within: tuple[float, float]
) -> Callable[[], None]:
    """Draw one panel on Matplotlib axes, but for the labels of variants.

    Args:
        axes: to draw on.
        rows: of the panel.
        drawn: method → mark, from `marks`.
        within: the least and the largest ACC that have to fit, 0..1.

    Returns:
        What draws the labels, to be called when the figure was drawn and nothing moves the axes any more.
    """
    joined, labels = curves(rows), list[Label]()
    for row in rows:
        shape, _, color = drawn[_variant(row).name]
        x, y = _point(axes, row, shape, color)
        if told := _told(row, joined):
            labels.append((x, y, told, color))
    for curve in joined:
        points = [(100 * row.values["asr"].mean, 100 * row.values["acc"].mean) for row in curve]
        axes.plot(*zip(*points, strict=True), color=drawn[_variant(curve[0]).name][-1], linewidth=1.1)
    low, high = (10 * math.floor(10 * within[0] - 0.5), 10 * math.ceil(10 * within[1] + 0.2))
    span = max(0, low) - 1, min(100, high) + 1
    axes.set(xlabel="ASR, % (left is cleaner)", ylabel="ACC, %", xlim=(-4, 104), ylim=span, axisbelow=True)
    axes.xaxis.set_major_locator(MultipleLocator(20))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=rcParams["text.color"], alpha=0.1, linewidth=0.6)
    return lambda: _label(axes, labels)


def curves(rows: Sequence[Row], axis: str = "defense") -> list[list[Row]]:
    """Variants of one method that set the same options to different numbers and differ in nothing else, in order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        options, numbers = _variant(row, axis).options, settings(row, axis)
        if numbers:
            others = [(name, str(value)) for name, value in options.items() if name not in numbers]
            rest = [text for name, text in row.axes.items() if name != axis]
            groups.setdefault((_variant(row, axis).name, *numbers, *others, *rest, row.place), []).append(row)
    return [sorted(rows, key=lambda row: [*settings(row, axis).values()]) for rows in groups.values() if len(rows) > 1]


def settings(row: Row, axis: str) -> dict[str, float]:
    """The options of what stands on an axis that are numbers, but for those that were tuned."""
    return {name: n for name, n in _variant(row, axis).options.items() if finite(n) and not isinstance(n, bool)}


def _variant(row: Row, axis: str = "defense") -> Selector:
    """The defence and its options, but for those that were tuned."""
    selector = read(row.axes[axis])
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


def _point(axes: Axes, row: Row, shape: str, color: str) -> tuple[float, float]:
    asr, acc = row.values["asr"], row.values["acc"]
    x, y = 100 * asr.mean, 100 * acc.mean
    if 1 < len(asr.values) < FEW:
        runs = ([100 * value for value in some.values] for some in (asr, acc))
        axes.plot(*runs, ".", color=color, markersize=4, alpha=0.6, clip_on=False)
    for at, some, line in ((y, asr, axes.hlines), (x, acc, axes.vlines)):
        if some.interval and len(some.values) >= FEW:
            low, high = some.interval
            line(at, 100 * low, 100 * high, color=color, linewidth=0.9, alpha=0.55)
    face = "none" if is_teacher(row.axes) else color  # hollow: the teacher itself
    faint = FAINT if row.doubted else 1
    axes.plot(x, y, shape, color=color, markerfacecolor=face, markersize=6.5, alpha=faint, clip_on=False)
    return x, y


def _label(axes: Axes, labels: Sequence[Label]) -> None:
    """Put each label where it hides no point, no curve and no other label, the nearest place first."""
    dot = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr] # pixels of a point
    taken = [box for line in axes.lines for box in _boxes(line, dot)]
    for x, y, told, color in labels:
        text = axes.annotate(
            told, (x, y), (0, 0), textcoords="offset points", fontsize=6, color=color, parse_math=False, ha="center",
            va="center", arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        size = Text.get_window_extent(text)
        at_x, at_y = axes.transData.transform((x, y))
        for far, turn in AROUND:
            dx = math.cos(turn) * (far * dot + size.width / 2)
            dy = math.sin(turn) * (far * dot + size.height / 2)
            box = Bbox.from_bounds(at_x + dx - size.width / 2, at_y + dy - size.height / 2, size.width, size.height)
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1
            if inside and not box.count_overlaps(taken):
                text.set_position((dx / dot, dy / dot))
                text.arrow_patch.set_visible(far > NEAR)  # type: ignore[union-attr]
                taken.append(box)
                break
        else:  # no room; what the curve means is in the table
            text.remove()


def _boxes(line: Line2D, dot: float) -> list[Bbox]:
    """What a line of a plot covers: its markers, or, where they are joined, small pieces of the way between them."""
    spots = line.get_transform().transform(line.get_xydata())
    half = 0.7 * dot * line.get_markersize()
    if line.get_linestyle() != "None" and len(spots):
        steps = np.linspace(0, len(spots) - 1, 60 * (len(spots) - 1) + 1)
        spots = np.stack([np.interp(steps, range(len(spots)), along) for along in spots.T], axis=1)
        half = dot
    return [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in spots]
