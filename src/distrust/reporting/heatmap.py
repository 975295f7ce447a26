"""The heat map of what is carried: one facet per defence, attacks down, distillers across."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..registry import registry
from .aggregate import SETTING, Cell, doubted, is_teacher, maker, varying
from .text import interval, percent

PLAIN = {"classifier": "finetune", "encoder": "finetune_ssl"}  # what a defence of models must beat


def plain(defenses: Iterable[str]) -> str | None:
    """The fine-tuning beside which such defences stand; None where all of them work on images."""
    known = registry.kind("defenses")
    bare = [text.partition("[")[0] for text in defenses if text != "none"]
    works_on = [known[name].mark.on if name in known else "classifier" for name in bare]
    return next((PLAIN[on] for on in works_on if on in PLAIN), None)


def facets(rows: Sequence[Cell]) -> list[dict[str, Any]]:
    """Arrange aggregated rows for the template.

    Args:
        rows: from `over_seeds`; a tile refers to its row by its index here.

    Returns:
        Per defence: {"defense", "columns": [(name, note)], "lines": [{"name", "note", "tiles"}]}; a tile is
        None where the grid has a hole, and a facet without lines was not measured.
    """
    settings = list(dict.fromkeys(_setting(row) for row in rows))
    models = sorted(dict.fromkeys(model_of(row) for row in rows), key=lambda model: model != (None, None))
    measured = list(dict.fromkeys(row["defense"] for row in rows))
    beaten = plain(measured)
    defenses = list(dict.fromkeys(["none", beaten, *measured])) if beaten else measured  # its lack is seen
    place = {(row["defense"], _setting(row), model_of(row)): i for i, row in enumerate(rows)}
    beside = varying(rows)
    several = len({row["student"] for row in rows if row["student"]}) > 1

    def line(defense: str, setting: tuple[Any, ...]) -> dict[str, Any]:
        named = dict(zip(SETTING, setting, strict=True))
        indices = [place.get((defense, setting, model)) for model in models]
        return {
            "name": named["attack"] or "none",
            "note": " · ".join(str(named[axis]) for axis in beside),
            "tiles": [None if i is None else _tile(i, rows[i]) for i in indices],
        }

    columns = [column(distiller, student, several) for distiller, student in models]
    return [
        {"defense": d, "columns": columns, "lines": [line(d, s) for s in settings] if d in measured else []}
        for d in defenses
    ]


def column(distiller: str | None, student: str | None, several: bool = True) -> tuple[str, str]:
    """Name of a measured model, and a note with the student's where there are several."""
    if distiller is None:
        return (student, "") if student else ("teacher", "")
    return distiller, (student or "") if several else ""


def describe(row: Cell) -> str:
    """A row in words: `badnets → kd → wrn16-1, defence nad`."""
    chain = [
        row["attack"] or "none",
        maker(row),
        *(["teacher"] if is_teacher(row) else [row["distiller"], row["student"]]),
    ]
    if maker(row):
        chain.remove(row["distiller"])
    return f"{' → '.join(str(part) for part in chain if part)}, defence {row['defense']}"


def _tile(index: int, row: Cell) -> dict[str, Any]:
    carried = row["carried"]
    if row["state"] != "done":
        text, words = row["state"], f"{row['state']}: {'; '.join(row['errors'])}"
    else:
        text = percent(carried)
        bounds = row["carried_interval"]
        spread = f"t-interval over seeds {interval(bounds)}" if bounds else "no interval over seeds"
        words = f"carried {text} points, {spread}, {len(row['seeds'])} seeds, n = {row['n']}"
    flags = f"; flags: {', '.join(row['flags'])}" if row["flags"] else ""
    return {
        "row": index,
        "text": text,
        "heat": None if carried is None else round(min(max(carried, 0.0), 1.0), 3),
        "state": row["state"],
        "mark": "⚑" if doubted(row) else "△" if row["flags"] and row["state"] == "done" else "",
        "doubted": doubted(row),
        "title": f"{describe(row)}: {words}{flags}",
    }


def _setting(row: Cell) -> tuple[Any, ...]:
    return tuple(row[axis] for axis in SETTING)


def model_of(row: Cell) -> tuple[str | None, str | None]:
    """Distiller and student of a row, None where there is none."""
    distiller = None if row["distiller"] in (None, "none") else row["distiller"]
    return distiller, row["student"] or None
