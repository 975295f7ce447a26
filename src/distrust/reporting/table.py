"""Tables: rows over seeds under chosen columns, as text, Markdown, LaTeX, HTML or CSV."""

from __future__ import annotations

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import BadInput, NotFound, Skip
from ..intervals import FEW
from ..selectors import Selector, Tune
from ..study.axes import AXES, TABLE
from .labels import read, shortened
from .markup import MARKUP, Markup, Name, plain_key
from .rows import Axes, Cell, Column, Estimate, Row, columns, given, maker, over_seeds
from .text import number, reach
from .verdict import verdicts

NAMED = ("images", "condenser", "encoder", "attack", "detector")  # axes that have a column where they vary
RATES = ("acc", "asr", "base", "carried")
SCORES = ("score", "score_control")
USUAL = {*NAMED, "model", "defense", *SCORES, *RATES, "verdict"}  # of what says something, that which is shown unasked
TRAINED = ("untriggered", "acc_control")  # where a set may wreck its victim
UNITS = {"share": " %", "ratio": " %", "points": ", points"}  # in which runs and intervals are told
INTERVALS = {"runs": FEW, "t": 2, "none": 0}  # of fewer runs every one is told, and of more their interval
FORMATS = (*MARKUP, "csv")


class Field(NamedTuple):
    """A column: its key, its heading, a metric's unit, and what it shows of a row: text, flags or an estimate."""

    key: str
    heading: str
    unit: str | None
    of: Callable[[Row], str | list[str] | Estimate | None]


@dataclass(frozen=True)
class Table:
    """Rows over seeds under chosen columns; printed, as text.

    Args:
        fields: the columns.
        rows: the lines.
        intervals: "runs": of fewer than five runs each, of more their 95 % t-interval; "t": always this; "none".
    """

    fields: Sequence[Field]
    rows: Sequence[Row]
    intervals: str = "runs"

    def to(self, format: str) -> str:
        """Write it.

        Args:
            format: "text", "markdown", "latex" (with booktabs), "html" or "csv".

        Raises:
            NotFound: another format.
        """
        if format not in FORMATS:
            raise NotFound.among("format of a table", format, FORMATS)
        if format == "csv":
            return self._csv()
        caption, numbers = self.caption(format), [field.unit is not None for field in self.fields]
        label = plain_key(self.rows[0].axes["study"])
        return MARKUP[format].whole(caption, label, numbers, self.head(format), self.lines(format))

    def head(self, format: str) -> list[str]:
        """The headings, marked up."""
        return [MARKUP[format].text(field.heading + UNITS.get(field.unit or "", "")) for field in self.fields]

    def lines(self, format: str) -> list[list[str]]:
        """What stands below them."""
        return [[self._told(field, row, MARKUP[format]) for field in self.fields] for row in self.rows]

    def caption(self, format: str) -> str:
        """What all rows have in common, and how to read their numbers."""
        seeds, few = sorted({len(row.seeds) for row in self.rows}), INTERVALS[self.intervals]
        runs = f"; {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} run{'' if seeds[-1] == 1 else 's'}"
        ways = {
            "every run": any(1 < n < few for n in seeds),
            "their 95 % t-interval": seeds[-1] >= few,
            "of one run its own 95 % interval": 1 in seeds,
        }
        told = "; ".join(way for way, there in ways.items() if there and few)
        how = f"; in brackets {told}." if told else "."
        return MARKUP[format].text(*setting(self.rows), f"{runs}. Mean over runs{how}")

    def records(self) -> list[dict[str, Any]]:
        """The rows as plain values: shares 0..1; beside each mean `…_low` and `…_high`, its interval, or None."""
        found: list[dict[str, Any]] = []
        for row in self.rows:
            found.append({})
            for key, _, unit, of in self.fields:
                value = of(row)
                if unit is None:
                    found[-1][key] = ", ".join(value) if isinstance(value, list) else value
                    continue
                told = value if isinstance(value, Estimate) else None
                found[-1][key] = told.mean if told else None
                if unit in UNITS and self.intervals != "none":
                    low, high = told.interval if told and told.interval else (None, None)
                    found[-1] |= {f"{key}_low": low, f"{key}_high": high}
        return found

    def __str__(self) -> str:
        return self.to("text")

    def _repr_html_(self) -> str:
        return self.to("html")

    def _told(self, field: Field, row: Row, markup: Markup) -> str:
        value = field.of(row)
        if isinstance(value, Estimate):
            return markup.words(value_of(value, field.unit or "", self.intervals))
        if isinstance(value, list):
            value = ", ".join(value)
        return markup.text(value or "–")

    def _csv(self) -> str:
        file, records = io.StringIO(), self.records()
        writer = csv.DictWriter(file, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _inert(value) for key, value in record.items()} for record in records)
        return file.getvalue()


def table_of(
    cells: Sequence[Cell],
    columns: Sequence[str] = (),
    rows: Mapping[str, Collection[str]] | None = None,
    intervals: str = "runs",
) -> Table:
    """Choose rows and columns of a study.

    Where a row has flags, they are among the columns; where no column names a row, those that do stand in front.
    Without a choice there are rates and verdicts, or scores of detectors, and the number of runs where it differs.

    Args:
        cells: as in `Results.cells`.
        columns: keys of axes, of metrics (as in a cell), or "model", "seeds", "n", "verdict", "chosen", "flags";
            "all": every one that says something.
        rows: axis → the entries of the rows that are kept, in this order, as a table shows them.
        intervals: as `Table` has them.

    Raises:
        NotFound: an unknown column, axis, entry or kind of interval, with what is near.
        BadInput: no row has all of these entries.
        Skip: no row has a number.
    """
    if intervals not in INTERVALS:
        raise NotFound.among("kind of interval", intervals, INTERVALS)
    every = sorted(over_seeds(shortened(cells)), key=order)
    kept = chosen_rows(every, rows or {})
    known, keys = fields(every), list(columns)
    for key in set(keys) - {"all"}:
        if key not in known or (known[key].unit is not None and not any(map(known[key].of, every))):
            there = {key for key, field in known.items() if any(field.of(row) not in (None, "none") for row in every)}
            raise NotFound.among(f"column of {every[0].axes['study']}", key, {*there, "all"})
    if not keys or keys == ["all"]:
        keys = [key for key in usual(kept) if keys or key in USUAL]
        keys += ["seeds"] if len({len(row.seeds) for row in kept}) > 1 else []
    keys = keys if any(key in (*AXES, "model") for key in keys) else [*naming(kept), *keys]
    flagged = any(known["flags"].of(row) for row in kept)
    return Table([known[key] for key in dict.fromkeys([*keys, *["flags"] * flagged])], kept, intervals)


def overview(cells: Sequence[Cell]) -> Table:
    """What is printed of a study: the axes on which methods stand, or that vary, scores of detectors, and rates.

    Axes that a study need not have are shown only if it does.
    """
    rows = over_seeds(shortened(cells))
    entries = {axis.name: {row.axes[axis.name] for row in rows} for axis in TABLE}
    axes = [a.name for a in TABLE if len(entries[a.name]) > 1 or (a.kind and (a.always or entries[a.name] != {"none"}))]
    known = fields(rows)
    scores = SCORES if "detector" in axes else ()
    known["flags"] = known["flags"]._replace(of=lambda row: [*row.flags, *states(row)])
    return Table([known[key] for key in (*axes, *scores, "seeds", *RATES, "flags")], rows)


def chosen_rows(rows: Sequence[Row], wanted: Mapping[str, Collection[str]]) -> list[Row]:
    """The rows that have one of the wanted entries on each of these axes, in the order in which these are named.

    Raises:
        NotFound, BadInput, Skip: as `table_of`.
    """
    study = rows[0].axes["study"]
    for axis, entries in wanted.items():
        if axis not in AXES:
            raise NotFound.among("axis", axis, AXES)
        there = {entry(row.axes, axis) for row in rows}
        for one in entries:
            if one not in there:
                raise NotFound.among(f"row of {study} with {axis}", one, there)
    kept = [row for row in rows if all(entry(row.axes, axis) in entries for axis, entries in wanted.items())]
    asked = " and ".join(f"{axis} {' or '.join(entries)}" for axis, entries in wanted.items())
    if not kept:
        raise BadInput(f"{study} has no row with {asked}. Ask for less.")
    if not any(row.state == "done" for row in kept):
        raise Skip(f"{study} has no number yet{f' for {asked}' if asked else ''}. Type: distrust run {study}.toml")
    places = [(axis, list(entries)) for axis, entries in wanted.items()]
    return sorted(kept, key=lambda row: [entries.index(entry(row.axes, axis)) for axis, entries in places])


def fields(rows: Sequence[Row]) -> dict[str, Field]:
    """Every column that can be asked for; verdicts are of all these rows together."""
    said = functools.cache(lambda: verdicts(rows))
    taught = "teacher_asr"
    found = [Field(axis.name, axis.title.lower(), None, functools.partial(_entry, axis=axis.name)) for axis in TABLE]
    found += [
        Field("model", "model", None, lambda row: model(row.axes)),
        Field(taught, "its teacher's ASR", "share", lambda row: row.values.get(taught) if _taught(row) else None),
        Field("seeds", "seeds", None, lambda row: str(len(row.seeds))),
        Field("n", "n", None, lambda row: f"{row.n:,}" if row.n else None),
    ]
    metrics = [column for column in columns() if column.unit and column.key != taught]
    found += [Field(c.key, c.heading, c.unit, functools.partial(_estimate, key=c.key)) for c in metrics]
    found += [
        Field("verdict", "backdoor", None, lambda row: said().get(row)),
        Field("chosen", "chosen", None, lambda row: chosen(row.cells)),
        Field("flags", "flags", None, lambda row: [*row.flags, *_lacking(row)]),
    ]
    return {field.key: field for field in found}


def usual(rows: Sequence[Row]) -> list[str]:
    """The columns that say something: what varies, the model, its numbers, its verdict, what was chosen, flags."""
    return [
        *naming(rows),
        *(["teacher_asr"] if any("teacher_asr" in row.values and _taught(row) for row in rows) else []),
        "seeds",
        *(column.key for column in columns() if _shown(column, rows)),
        *(["verdict"] if verdicts(rows) else []),
        *(["chosen"] if any(cell.get("chosen") for row in rows for cell in row.cells) else []),
        "flags",
    ]


def naming(rows: Sequence[Row]) -> list[str]:
    """The columns that tell rows apart."""
    return [*(axis for axis in NAMED if len({row.axes[axis] for row in rows}) > 1), "model", "defense"]


def setting(rows: Sequence[Row]) -> list[str]:
    """What the rows have in common, in words and names."""
    parts = [["Study ", Name(rows[0].axes["study"]), ", budget ", Name(rows[0].axes["budget"])]]
    for axis in ("images", "teacher", "condenser", "encoder", "attack"):
        values = list(dict.fromkeys(row.axes[axis] for row in rows))
        if axis in ("teacher", "condenser", "encoder") and values == ["none"]:
            continue
        if axis != "teacher" and len(values) > 1:
            continue  # it has a column
        parts.append([f"{axis} ", *[word for value in values for word in (Name(value), ", ")][:-1]])
    if images := sorted({cell["n"] for row in rows for cell in row.cells if cell.get("n")}):
        told = "–".join(f"{n:,}" for n in dict.fromkeys((images[0], images[-1])))
        parts.append([f"n = {told} triggered test images"])
    return [word for part in parts for word in (*part, "; ")][:-1]


def value_of(estimate: Estimate | None, unit: str = "share", intervals: str = "runs") -> str:
    """A mean, and how far the runs behind it lie apart."""
    if estimate is None:
        return "–"
    told = reach(estimate, unit, INTERVALS[intervals]) if unit in UNITS and INTERVALS[intervals] else ""
    return f"{number(estimate.mean, unit)} {told}".strip()


def entry(axes: Axes, axis: str) -> str:
    """What stands on an axis, without options that were tuned; the chosen values have their own column."""
    return bare(given(axes, axis) or "none")


@functools.lru_cache(4096)
def bare(text: str) -> str:
    """A selector without the options that were tuned."""
    selector = read(text)
    return Selector(selector.name, {k: v for k, v in selector.options.items() if not isinstance(v, Tune)}).text


def model(axes: Axes) -> str:
    """The measured model in words."""
    student = axes["student"] if maker(axes) else f"{axes['student']} student by {axes['distiller']}"
    student = student if maker(axes) or given(axes, "distiller") else "teacher"
    return student if given(axes, "attack") else f"{student}, never attacked"


def chosen(cells: Sequence[Cell]) -> str | None:
    """Tuned options with their value for each seed, in the order of the seeds."""
    done = sorted((cell for cell in cells if cell["state"] == "done"), key=lambda cell: cell["seed"])
    found = [cell["chosen"] for cell in done if cell.get("chosen")]
    return "; ".join(f"{k} {', '.join(str(c[k]) for c in found)}" for k in found[0]) if found else None


def states(row: Row) -> list[str]:
    """Why seeds have no numbers."""
    return sorted({f"{cell['state']}: {cell['error']}" for cell in row.cells if cell["state"] != "done"})


def order(row: Row) -> tuple[Any, ...]:
    """Where a row stands: teachers first, the undefended before the defended, a variant before its whole method."""
    axes, defense = row.axes, entry(row.axes, "defense")
    made = (axes["images"], axes["teacher"], maker(axes) or "", axes["attack"], _taught(row), axes["distiller"])
    looked, defended = given(axes, "detector") or "", bool(given(axes, "defense"))
    return (*made, axes["student"], looked, defended, defense.partition("[")[0], "[" not in defense, defense)


def _entry(row: Row, axis: str) -> str:
    return Name(entry(row.axes, axis))


def _estimate(row: Row, key: str) -> Estimate | None:
    return row.values.get(key)


def _lacking(row: Row) -> list[str]:
    """How many seeds have no numbers; why is told where they are looked up, and not in a paper."""
    return [f"{n} {state}" for state, n in Counter(c["state"] for c in row.cells if c["state"] != "done").items()]


def _taught(row: Row) -> bool:
    return bool(given(row.axes, "distiller"))


def _shown(column: Column, rows: Sequence[Row]) -> bool:
    trained = any(maker(row.axes) for row in rows)
    there = any(column.key in row.values for row in rows)
    return there and not column.detail and (trained or column.key not in TRAINED)


def _inert(value: Any) -> Any:
    """A number to six digits; text that a spreadsheet would compute begins with an apostrophe."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
