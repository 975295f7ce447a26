"""Plots for a paper, on Matplotlib axes: a map, what cleaning costs, a curve over an option, pictures of triggers."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from ..errors import BadInput, NotFound
from ..intervals import FEW
from ..study.axes import TABLE
from ..study.cells import Cell
from ..study.graph import Plan
from ..study.store import Store
from . import figures
from .heatmap import defenses
from .labels import labels, read, shortened
from .rows import SETTING, Column, Row, columns, given, is_teacher, label, over_seeds, varying
from .table import UNITS, bare, chosen_rows, order
from .text import number

KINDS = ("map", "frontier", "curve", "triggers")
COLUMN, PAGE = 3.4, 7.0  # inches: widths of a column and of a page
TURNED = 2  # columns of a map, beyond which their names are turned
MANY = 3  # panels beside each other
LEAST, MOST = 3, 10  # points of a curve on a page, and curves in a drawing there
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "pdf.fonttype": 42, "svg.fonttype": "none",
    "svg.hashsalt": "distrust", "savefig.dpi": 300,
}  # fmt: skip
LETTERS = 16  # in an inch, or a little less
WRITER = "Distrust figure"  # by which it is known when it is written again
KINDS_OF_PICTURE = {"clean": "clean", "triggered": "triggered", "difference": "difference × 10"}


class Drawing(NamedTuple):
    """What is to be drawn.

    Args:
        panels: title → what draws on the axes that it gets; what it returns is called when all axes have their places.
        size: of a panel, in inches.
        legend: what stands in it, and its label.
    """

    panels: dict[str, Callable[[Axes], Callable[[], None] | None]]
    size: tuple[float, float]
    legend: list[tuple[Any, str]]


def drawing(
    kind: str,
    cells: Sequence[Cell],
    wanted: Mapping[str, Collection[str]],
    metric: str,
    over: str,
    plan: Plan | None,
    store: Store,
) -> Drawing:
    """Make ready what `distrust.figure` draws; it says what is taken and raised."""
    rows = chosen_rows(sorted(over_seeds(shortened(cells)), key=order), wanted)
    if kind == "triggers":
        return _triggers(rows, cells, plan, store)
    if kind == "frontier":
        return _frontier(rows)
    known = {c.key: c for c in columns() if c.unit and any(c.key in row.values for row in rows)}
    if metric not in known:
        raise NotFound.among(f"number of {rows[0].axes['study']}", metric, known)
    return _map(rows, known[metric]) if kind == "map" else _curve(rows, known[metric], over)


def alone(drawn: Drawing) -> Figure:
    """A figure of its own, as wide as a column or, with several panels, as a page."""
    many = len(drawn.panels)
    across = min(many, MANY)
    down = -(-many // across)
    width, height = drawn.size
    if many > 1:
        width, height = PAGE, height * PAGE / across / width
    with rc_context(STYLE):
        lines = -(-len(drawn.legend) // (2 * MANY if many > 1 else MANY))
        figure = Figure(figsize=(width, height * down + 0.17 * lines), layout="constrained")
        axes = [*figure.subplots(down, across, squeeze=False).flatten()]
        last = _draw(drawn, axes)
        for spare in axes[many:]:
            spare.set_axis_off()
        if drawn.legend:
            figure.legend(
                *zip(*drawn.legend, strict=True), loc="outside lower center", frameon=False,
                ncols=min(len(drawn.legend), 2 * MANY if many > 1 else MANY), columnspacing=1, handletextpad=0.4,
            )  # fmt: skip
        _finish(figure, last)
    return figure


def onto(drawn: Drawing, axes: Axes | Sequence[Axes]) -> Figure:
    """Draw on axes of somebody's; beside the last of them stands the legend.

    Raises:
        BadInput: there are more panels than axes.
    """
    given_axes = [axes] if isinstance(axes, Axes) else [*np.ravel(np.asarray(axes, dtype=object))]
    if len(given_axes) < len(drawn.panels):
        told = ", ".join(drawn.panels)
        raise BadInput(
            f"{len(given_axes)} axes are given for {len(drawn.panels)} panels ({told}). Pass as many, or choose rows."
        )
    last = _draw(drawn, given_axes)
    if drawn.legend:
        where: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False, "fontsize": "small"}
        given_axes[len(drawn.panels) - 1].legend(*zip(*drawn.legend, strict=True), **where)
    figure: Figure = given_axes[0].get_figure(root=True)  # type: ignore[assignment]
    _finish(figure, last)
    return figure


def written(figure: Figure, suffix: str) -> bytes:
    """The figure as a file: "pdf", "svg" or "png"; the same figure gives the same bytes."""
    facts: dict[str, dict[str, Any]] = {
        "pdf": {"Creator": WRITER, "CreationDate": None},
        "svg": {"Creator": WRITER, "Date": None},
        "png": {"Software": WRITER},
    }
    file = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, format=suffix, metadata=facts[suffix])
    return file.getvalue()


def _draw(drawn: Drawing, axes: Sequence[Axes]) -> list[Callable[[], None]]:
    last = [draw(one) for draw, one in zip(drawn.panels.values(), axes, strict=False)]
    for title, one in zip(drawn.panels, axes, strict=False):
        one.set_title(textwrap.fill(_plain(title), int(LETTERS * (drawn.size[0] if len(axes) == 1 else PAGE / MANY))))
    return [finish for finish in last if finish]


def _finish(figure: Figure, last: Sequence[Callable[[], None]]) -> None:
    if last:
        figure.draw_without_rendering()  # now the axes have their places
    for finish in last:
        finish()


def _frontier(rows: Sequence[Row]) -> Drawing:
    study, groups = rows[0].axes["study"], figures.panels(rows)
    if not groups:
        raise BadInput(f"{study} has no attacked model with a defence here, which a frontier shows. "
                       f"Type: distrust figure {study} map")  # fmt: skip
    drawn = figures.marks(row.axes["defense"] for some in groups.values() for row in some)
    within = figures.reach_of(groups)

    def panel(some: list[Row]) -> Callable[[Axes], Callable[[], None]]:
        return lambda axes: figures.frontier(axes, some, drawn, within)

    rows = [row for some in groups.values() for row in some]
    hollow = {is_teacher(row.axes) for row in rows}
    face: dict[str, Any] = {"markerfacecolor": "none"} if hollow == {True} else {}
    legend = [_key(name, shape, color, linestyle="", **face) for name, (shape, _, color) in drawn.items()]
    legend += [_key("hollow: the teacher", "o", "grey", linestyle="", markerfacecolor="none")] * (len(hollow) > 1)
    legend += _notes(rows, **face)
    return Drawing({name: panel(some) for name, some in groups.items()}, (COLUMN, 2.6), legend)


def _notes(rows: Sequence[Row], own: bool = False, **face: Any) -> list[tuple[Line2D, str]]:
    """What else is drawn: runs, intervals (with `own`, those of single runs, too), and what must not be believed."""
    many = {len(row.seeds) for row in rows}
    told = [_key("a run", ".", "grey", linestyle="", alpha=0.6)] if any(1 < n < FEW for n in many) else []
    told += [_key("95 % interval", "|", "grey", linestyle="")] if max(many) >= FEW or (own and 1 in many) else []
    faint = [_key("faint: not to be believed", "o", "grey", linestyle="", alpha=figures.FAINT, **face)]
    return told + faint * any(row.doubted for row in rows)


def _key(name: str, shape: str, color: str, **style: Any) -> tuple[Line2D, str]:
    return Line2D([], [], marker=shape, color=color, markersize=5, **style), _plain(name)


def _map(rows: Sequence[Row], column: Column) -> Drawing:
    """Models and defences down, settings across."""
    measured = [row for row in rows if column.key in row.values]
    tiles: dict[str, dict[str, Row]] = {}
    several = len({row.axes["student"] for row in measured if given(row.axes, "student")}) > 1
    beside = varying((row.axes for row in measured), SETTING)
    across = dict.fromkeys(label(_bared(row), beside, "\n") for row in measured)
    names = defenses(measured)
    for row in sorted(measured, key=lambda row: (names.index(row.axes["defense"]), not is_teacher(row.axes))):
        distiller, student = given(row.axes, "distiller"), given(row.axes, "student")
        model = f"{distiller or student or 'teacher'}{f' {student}' if distiller and several else ''}"
        name = model if row.axes["defense"] == "none" else f"{model}, {bare(row.axes['defense'])}"
        tiles.setdefault(name, {})[label(_bared(row), beside, "\n")] = row
    if all(name.startswith("teacher") for name in tiles):
        tiles = {name.removeprefix("teacher, ").replace("teacher", "no defence"): own for name, own in tiles.items()}

    def draw(axes: Axes) -> None:
        _tiles(axes, tiles, [*across], column)

    down, top = max(map(len, tiles)) / LETTERS, max(len(line) for name in across for line in name.split("\n")) / LETTERS
    size = (
        down + max(1.7, 0.52 * len(across) + (0.4 * top if len(across) > TURNED else 0.0)),
        0.95 + 0.65 * top + 0.19 * len(tiles),
    )
    return Drawing({"": draw}, size, [])


def _bared(row: Row) -> dict[str, str]:
    return {name: bare(text) for name, text in row.axes.items()}


def _tiles(axes: Axes, tiles: Mapping[str, Mapping[str, Row]], across: list[str], column: Column) -> None:
    colors, shares = colormaps["Blues" if column.better == "higher" else "YlOrBr"], column.unit in UNITS
    means = [row.values[column.key].mean for own in tiles.values() for row in own.values()]
    low, high = (0.0, 1.0) if shares else (min(means), max(means) or 1.0)
    used = set[str]()
    for y, own in enumerate(tiles.values()):
        for x, setting in enumerate(across):
            row = own.get(setting)
            mean = row.values[column.key].mean if row else low
            heat = min(max((mean - low) / ((high - low) or 1.0), 0.0), 1.0)
            doubted = bool(row and row.doubted)
            ink = "white" if heat > 0.75 else "black"
            axes.add_patch(Rectangle(
                (x - 0.5, y - 0.5), 1, 1, facecolor=colors(0.85 * heat) if row else "white", edgecolor="white",
                linewidth=1.5,
            ))  # fmt: skip
            sign = "†" if doubted else "*" if row and row.flags else ""
            used.add(sign if row else "–")
            told = number(mean, column.unit) if row else "–"
            style: dict[str, Any] = {"fontstyle": "italic"} if doubted else {}
            axes.text(x, y, f"{told}{sign}", ha="center", va="center", color=ink, fontsize="small", **style)
    signs = {"†": "†: not to be believed", "*": "*: with a flag", "–": "–: not measured"}
    key = _told([row for own in tiles.values() for row in own.values()], column)
    notes = "\n".join(text for sign, text in signs.items() if sign in used)
    axes.set(
        xlim=(-0.5, len(across) - 0.5),
        ylim=(len(tiles) - 0.5, -0.5),
        xlabel="\n".join(filter(None, (*key.split("; "), notes))),
    )
    turned: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if len(across) > TURNED else {}
    axes.set_xticks(range(len(across)), map(_plain, across), **turned)
    axes.set_yticks(range(len(tiles)), map(_plain, tiles))
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def _told(rows: Sequence[Row], column: Column) -> str:
    """A metric with its unit, and of how many runs it is the mean."""
    seeds = sorted({len(row.seeds) for row in rows})
    runs = f"mean over {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} runs" if seeds[-1] > 1 else "one run"
    return f"{column.heading}{UNITS.get(column.unit, '')}; {runs}"


def knobs(rows: Sequence[Row]) -> dict[str, list[dict[float, Row]]]:
    """Option → curves along it: rows by its value; what else differs are numbers that go with it."""
    found: dict[str, list[dict[float, Row]]] = {}
    for axis in (axis.name for axis in TABLE if axis.labelled):
        for curve in figures.curves(rows, axis):
            for option in figures.settings(curve[0], axis):
                at = [figures.settings(row, axis)[option] for row in curve]
                alone = len({*at}) == len(at)  # else curves are told apart by their other numbers
                lines: dict[tuple[Any, ...], dict[float, Row]] = {}
                for value, row in zip(at, curve, strict=True):
                    own = figures.settings(row, axis)
                    others = () if alone else tuple((k, v) for k, v in own.items() if k != option)
                    lines.setdefault(others, {})[value] = row
                found.setdefault(option, []).extend(dict(sorted(one.items())) for one in lines.values() if len(one) > 1)
    return {option: lines for option, lines in found.items() if lines}


def inline_curves(rows: Sequence[Row], column: Column) -> list[dict[str, Any]]:
    """For a page: curves along each option that takes three values or more; of options that go together, the first.

    Returns:
        Per option {"name", "svg", "legend": name, glyph and colour of each curve}.
    """
    found, seen, drawn = list[dict[str, Any]](), set[Row](), [row for row in rows if column.key in row.values]
    for option, lines in knobs(drawn).items():
        own = [row for line in lines for row in line.values()]
        if max(map(len, lines)) < LEAST or seen.issuperset(own):
            continue
        seen.update(own)
        panels: dict[str, list[Row]] = {}
        for row in own:  # too many curves for one drawing: one for each attack
            panels.setdefault(f" · {read(row.axes['attack']).name}" * (len(lines) > MOST), []).append(row)
        for name, some in panels.items():
            with rc_context(figures.STYLE):
                figure = Figure(figsize=(4.4, 3.2), layout="constrained")
                _draw(_curve(some, column, option), [figure.subplots()])
                svg = figures.inline(figure, f"{column.heading} along {option}{name}; the table below has the numbers")
            legend = [(told, *figures.mark(i + 1)[1:]) for i, told in enumerate(_along(knobs(some)[option], option)[1])]
            found.append({"name": option + name, "svg": svg, "legend": legend})
    return found


def _curve(rows: Sequence[Row], column: Column, over: str) -> Drawing:
    study, known = rows[0].axes["study"], knobs([row for row in rows if column.key in row.values])
    if not known:
        raise BadInput(
            f"{study} has no numeric option that varies, which a curve needs. Type: distrust figure {study} map"
        )
    if over and over not in known:
        raise NotFound.among(f"option that varies in {study}", over, known)
    if not over and len(known) > 1:
        raise BadInput(f"{study} varies {', '.join(known)}. Choose one: --over {next(iter(known))}")
    option = over or next(iter(known))
    lines, factor = known[option], 100 if column.unit in UNITS else 1
    along, told = _along(lines, option)

    def draw(axes: Axes) -> None:
        for i, line in enumerate(lines):
            _line(axes, line, column.key, *figures.mark(i + 1), factor)
        at = sorted({value for line in lines for value in line})
        if at[0] > 0 and at[-1] / at[0] > 20:
            axes.set_xscale("log")
        if len(at) <= 6:
            axes.set_xticks(at, [f"{value:g}" for value in at])
            axes.minorticks_off()
        axes.set(xlabel=_plain(along), ylabel=_told([row for line in lines for row in line.values()], column))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15, linewidth=0.6)

    legend = [_key(name, *figures.mark(i + 1)[::2]) for i, name in enumerate(told)]
    legend = legend if len(legend) > 1 else []
    legend += _notes([row for line in lines for row in line.values()], own=True)
    return Drawing({"": draw}, (COLUMN, 2.5), legend)


def _along(lines: Sequence[Mapping[float, Row]], option: str) -> tuple[str, list[str]]:
    """What a curve goes along, in words, and what tells each from the others."""
    told, going = list[dict[str, str]](), {option: None}
    for line in lines:
        variants = [{axis.name: read(bare(row.axes[axis.name])) for axis in TABLE} for row in line.values()]
        same = variants[0]
        moving = {
            k for one in variants for name, s in one.items() for k, v in s.options.items() if same[name].options[k] != v
        }
        going |= dict.fromkeys(sorted(moving))
        told.append({name: selector.without(*moving).text for name, selector in same.items()})
    names = [name for name in told[0] if len({one[name] for one in told}) > 1]
    plain = "teacher" if "distiller" in names else "none"
    along = ", and with it ".join(filter(None, (option, ", ".join(list(going)[1:]))))
    return along, [", ".join(one[name] for name in names if one[name] != "none") or plain for one in told]


def _line(axes: Axes, line: Mapping[float, Row], key: str, shape: str, _: str, color: str, factor: float) -> None:
    values = [(at, row.values[key], row.doubted) for at, row in line.items()]
    axes.plot([at for at, _, _ in values], [factor * one.mean for _, one, _ in values], color=color, linewidth=1.1)
    for at, one, doubted in values:
        axes.plot(at, factor * one.mean, shape, color=color, markersize=4.5, alpha=figures.FAINT if doubted else 1)
        if 1 < len(one.values) < FEW:
            axes.plot(
                [at] * len(one.values), [factor * v for v in one.values], ".", color=color, markersize=3, alpha=0.6
            )
        elif one.interval:
            low, high = one.interval
            axes.vlines(at, factor * low, factor * high, color=color, linewidth=0.9, alpha=0.6)


def _triggers(rows: Sequence[Row], cells: Sequence[Cell], plan: Plan | None, store: Store) -> Drawing:
    """For each attack an image, the same with its trigger, and their difference."""
    from .gather import pictures_of  # with torch

    short = labels(cells)["attack"]
    attacks = dict.fromkeys(row.axes["attack"] for row in rows if given(row.axes, "attack"))
    strips = {short.get(name, name): strip for name, strip in (pictures_of(plan, store) if plan else {}).items()}
    shown = {bare(name): strips[name] for name in attacks if name in strips}
    if not shown:
        study = rows[0].axes["study"]
        raise NotFound(
            f"no picture of a trigger of {study}: its study file, its images or its stages are not here. "
            f"Type: distrust run {study}.toml --store {store.url}"
        )

    def draw(axes: Axes) -> None:
        for y, strip in enumerate(shown.values()):
            for x, kind in enumerate(KINDS_OF_PICTURE):
                image = Image.open(io.BytesIO(strip[kind][0]), formats=("PNG",)).convert("RGB")
                axes.imshow(np.asarray(image), extent=(x - 0.48, x + 0.48, y + 0.48, y - 0.48), interpolation="nearest")
                axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, edgecolor="grey", linewidth=0.4))
        axes.set(xlim=(-0.5, len(KINDS_OF_PICTURE) - 0.5), ylim=(len(shown) - 0.5, -0.5), aspect="equal")
        axes.set_xticks(range(len(KINDS_OF_PICTURE)), KINDS_OF_PICTURE.values())
        axes.set_yticks(range(len(shown)), map(_plain, shown))
        axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)

    return Drawing({"": draw}, (COLUMN, 0.3 + 0.85 * len(shown)), [])


def _plain(text: str) -> str:
    """A name as it stands: Matplotlib sets what is between two $ as a formula, and hides a label that begins with _."""
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")
