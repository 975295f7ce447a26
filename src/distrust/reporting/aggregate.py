"""Cells of several seeds become one row: means, t-intervals and the union of their flags."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..flags import MEANING
from ..measurement import over_seeds as mean_and_interval

Cell = dict[str, Any]

SETTING = ("study", "budget", "images", "teacher", "attack", "place", "condenser", "encoder")  # what students share
AXES = (*SETTING, "distiller", "student", "defense", "detector")
RATES = ("acc", "asr", "asr_all", "base", "untriggered", "titg", "carried", "carry_over")
COMPARED = ("acc_control", "undefended_acc", "undefended_asr", "teacher_asr")
TRANSFER = ("caught", "lost", "poison_hits", "poison_agreement", "poison_agreement_clean")  # of a poisoned transfer set
ARCHETYPES = ("asr_archetypes", "base_archetypes")  # stamped images that were made from a synthetic set
DETECTED = ("score", "score_control")
DOUBT = ("acc-floor", "collapsed", "control-fires", "no-control")  # such a number supports no claim


def over_seeds(cells: Sequence[Cell]) -> list[Cell]:
    """Group cells by everything but the seed, in order of appearance.

    Args:
        cells: flat cells, as in `Report.cells`; only those that are done enter a mean.

    Returns:
        One row per group: the axes; the mean of every rate (None where no seed has it) with its 95 %
        t-interval over seeds as `<rate>_interval` (None below two seeds); `seeds`, those that are done; `n`,
        the fewest triggered images of any seed; `flags`; `seconds` in all; `state`, "done" if any seed is;
        `errors`; and `cells`, the ids behind it.
    """
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.get(axis) for axis in AXES), []).append(cell)
    return [_row(group) for group in groups.values()]


def _row(group: list[Cell]) -> Cell:
    done = [cell for cell in group if cell["state"] == "done"]
    row: Cell = {axis: group[0].get(axis) for axis in AXES}
    for rate in (*RATES, *COMPARED, *TRANSFER, *ARCHETYPES, *DETECTED):
        values = [cell[rate] for cell in done if finite(cell.get(rate))]
        ranged = "" if rate in ("carry_over", *DETECTED) else rate  # a ratio, or a score, may leave every range
        row[rate], row[f"{rate}_interval"] = mean_and_interval(values, ranged) if values else (None, None)
    row["seeds"] = [cell["seed"] for cell in done]
    row["n"] = min((cell["n"] for cell in done if cell.get("n")), default=0)
    row["flags"] = _flags(group, len(done))
    row["seconds"] = math.fsum(cell.get("seconds") or 0 for cell in group)
    row["state"] = next(s for s in ("done", "failed", "skipped", "missing") if any(c["state"] == s for c in group))
    row["errors"] = sorted({cell["error"] for cell in group if cell.get("error")})
    row["cells"] = [cell["id"] for cell in group]
    return row


def maker(row: Cell) -> str | None:
    """The condenser, or the loss of the encoder, on whose product the student was trained; None behind a teacher."""
    return row.get("condenser") or row.get("encoder")


def _flags(group: list[Cell], done: int) -> list[str]:
    raised = {name for cell in group for name in cell.get("flags") or ()}
    raised.discard("one-seed")  # each cell is one seed; whether the row is, is known only here
    if done == 1:
        raised.add("one-seed")
    known = [name for name in MEANING if name in raised]
    return known + sorted(raised - set(known))


def finite(value: Any) -> bool:
    """A number that can be averaged and shown."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_teacher(row: Cell) -> bool:
    """The measured model is the teacher itself: nothing was distilled."""
    return row.get("distiller") in (None, "none") and row.get("student") in (None, "none")


def attacked(row: Cell) -> bool:
    """An attack lies upstream of the measured model."""
    return row.get("attack") not in (None, "none")


def doubted(row: Cell) -> bool:
    """A flag says that the number must not be believed."""
    return any(name in DOUBT for name in row["flags"])


def varying(rows: Iterable[Cell], axes: Sequence[str] = SETTING) -> list[str]:
    """The axes with more than one value, apart from the attack and its place: what a label must name beside it."""
    rows = list(rows)
    return [axis for axis in axes if axis not in ("attack", "place") and len({str(row.get(axis)) for row in rows}) > 1]
