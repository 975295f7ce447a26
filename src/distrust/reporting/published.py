"""Published: rows of BackdoorBench's results file, each under its own convention, for a study file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bounds import bounded
from ..errors import BadInput, NotFound

SOURCE = "BackdoorBench, public board"
CONVENTION = (
    "BackdoorBench: ACC over all test images; ASR over triggered ones of other classes, RA the share of these that is "
    "called its true class; the rate is of all training images; some defences were tuned on test images"
)
COLUMNS = {  # ours → theirs, today and before
    "images": ("dataset",), "model": ("backbone",), "attack": ("attack_name", "attack"),
    "defense": ("defense_name", "defense"), "rate": ("ratio", "pratio"), "acc": ("test_acc",), "asr": ("test_asr",),
    "ra": ("test_ra",),
}  # fmt: skip
NUMBERS = ("acc", "asr", "ra")
OURS = {  # their word → our method of that name
    "attack": {
        "badnet": "badnets", "blended": "blend", "inputaware": "input_aware", "lc": "clean_label", "lf": "lowfreq",
        "trojannn": "trojan", "torjannn": "trojan",
    },
    "defense": {
        "no defense": "none", "nodefense": "none", "ft": "finetune", "fp": "finepruning", "i-bau": "ibau",
        "mbns": "bnp",
    },
}  # fmt: skip
COUNTED = {  # whose way of counting a published number follows → our numbers beside it, and how to say it
    "others": ("acc_others", "asr", "ACC over the test images of the classes that are not the target"),
    "all": ("acc", "asr_all", "ASR over all test images, those of the target class included"),
}
LONG = 60  # characters of a name


@dataclass(frozen=True)
class Published:
    """Other people's rows; printed, the TOML that a study file takes.

    Args:
        rows: each with `source`, `convention`, its `images`, `model`, `rate` and `note`, our words for its `attack` and
            `defense` where we have them, and `acc`, `asr` and `ra`, 0..1, or None where they did not measure it.
    """

    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        measured = [row for row in self.rows if any(row[name] is not None for name in NUMBERS)]
        lines = [f"# {len(measured)} rows; {len(self.rows) - len(measured)} more were not measured"]
        for row in measured:
            lines += ["", "[[published]]"]
            lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in row.items() if v is not None]
        return "\n".join(lines)


def published(
    path: str | Path,
    *,
    attack: Collection[str] = (),
    defense: Collection[str] = (),
    images: Collection[str] = (),
    rate: Collection[float] = (),
    model: Collection[str] = (),
) -> Published:
    """Read BackdoorBench's results file (results.csv of its board) as published rows; none becomes a cell of ours.

    Args:
        path: the file; −1 and nothing mean that it was not measured.
        attack: only these, by our names or theirs.
        defense: likewise.
        images: only these, by their names, such as "cifar10".
        model: likewise, such as "preactresnet18".
        rate: only these shares of poisoned training images, 0..1.

    Raises:
        NotFound: no such file, or no row with such a name, with what is near.
        BadInput: it is no such file, or no row has all that was asked for.
    """
    rows = every = _rows(Path(path))
    asked: Mapping[str, Collection[Any]] = {
        "attack": attack, "defense": defense, "images": images, "rate": rate, "model": model,
    }  # fmt: skip
    for name, wanted in asked.items():
        ours = OURS.get(name, {})
        wanted = {ours.get(word, word) for word in wanted}
        if missing := wanted - (known := {row[name] for row in every}):
            raise NotFound.among(f"{name} in {path}", str(min(missing)), map(str, known))
        kept = [row for row in rows if not wanted or row[name] in wanted]
        if not kept:
            raise BadInput(f"{path}: no row has this {name} and all that was asked for before it. Ask for less.")
        rows = kept
    return Published(rows)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise NotFound.among("results file", str(path), map(str, path.parent.glob("*.csv")))
    try:
        lines = csv.reader(bounded(path).decode("utf-8-sig").splitlines(), strict=True)
        header = [word.strip() for word in next(lines, [])]
        at = {name: next((header.index(w) for w in words if w in header), None) for name, words in COLUMNS.items()}
        if missing := [" or ".join(COLUMNS[name]) for name, column in at.items() if column is None]:
            told = f"it has no column {', '.join(missing)}"
            raise BadInput(f"{path} is no results file of BackdoorBench: {told}. Give results.csv of its board.")
        rows = [_row(line, at, len(header), f"{path}, line {lines.line_num}") for line in lines if line]
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 (byte {error.start}). Give results.csv of BackdoorBench's board."
        ) from None
    except csv.Error as error:
        raise BadInput(f"{path} is not CSV: {error}. Give results.csv of BackdoorBench's board.") from None
    if not rows:
        raise BadInput(f"{path} has a header and no row. Give results.csv of BackdoorBench's board.")
    return rows


def _row(line: list[str], at: Mapping[str, Any], width: int, where: str) -> dict[str, Any]:
    """A published row from a line of the file."""
    if len(line) != width:
        raise BadInput(f"{where} has {len(line)} fields; the header has {width}. Give the file as the board has it.")
    said = {name: "".join(filter(str.isprintable, line[column])).strip()[:LONG] for name, column in at.items()}
    numbers = {name: _share(said[name], where) for name in ("rate", *NUMBERS)}
    if numbers["rate"] is None:
        raise BadInput(f"{where} has no rate. Give the file as the board has it.")
    named = {axis: OURS[axis].get(said[axis], said[axis]) for axis in OURS}
    note = f"{said['attack']} / {said['defense']} on {said['model']}, {100 * numbers['rate']:g} % poisoned"
    return {
        "source": SOURCE, "convention": CONVENTION, "images": said["images"], "model": said["model"],
        **named, "distiller": "none", "note": note, **numbers,
    }  # fmt: skip


def _share(text: str, where: str) -> float | None:
    """A share 0..1; None for what was not measured."""
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.inf
    if math.isnan(value) or value == -1:
        return None
    if not 0 <= value <= 1:
        raise BadInput(f"{where}: {text!r} is no share between 0 and 1. Give the file as the board has it.")
    return round(value, 6)
