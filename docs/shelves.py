"""Rewrite the shelves that come along from results/: `python docs/shelves.py`. A test checks that they are up to date.

A shelf is one study or several, whose every model is shown to the same detectors, one cell each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from distrust.auditing.shelf import Look, Shelf
from distrust.data.sources import images
from distrust.reporting.rows import Cell, given
from distrust.selectors import parse_one
from distrust.study import read_cells
from distrust.study.spec import read_toml

ROOT = Path(__file__).resolve().parents[1]
SHELVES = ROOT / "src" / "distrust" / "auditing" / "shelves"
MADE_OF = {"digits-wrn10-1": ("classifier", ("shelf-digits",))}  # shelf → what is on it, and of which studies
DIGITS = 4  # of a number that are kept: it is compared, not computed with


def shelf(name: str) -> Shelf:
    """The shelf that its studies' results make."""
    kind, studies = MADE_OF[name]
    models: dict[tuple[str, int], list[Cell]] = {}
    cells = [cell for study in studies for cell in read_cells(ROOT / "results" / study)]
    for cell in sorted(cells, key=lambda cell: (cell["attack"], cell["seed"])):
        models.setdefault((cell["attack"], cell["seed"]), []).append(cell)
    [(source, network)] = {(cell["images"], cell["teacher"]) for cell in cells}
    [panel] = {tuple(read_toml(ROOT / "studies" / f"{study}.toml")["detector"]) for study in studies}
    train, _ = images(source)
    about = {
        "kind": kind, "model": network, "images": source, "shape": [*train.x.shape[1:]], "classes": len(train.classes),
        "panel": [*panel], "study": " ".join(studies),
    }  # fmt: skip
    return Shelf(name, tuple(map(_look, models.values())), about)


def text(name: str) -> str:
    """Its file, a model a line."""
    record = shelf(name).record()
    looks = ",\n".join(json.dumps(look) for look in record["looks"])
    return f'{{"name": {json.dumps(record["name"])}, "about": {json.dumps(record["about"])}, "looks": [\n{looks}\n]}}\n'


def _look(cells: Sequence[Cell]) -> Look:
    """What all detectors say of one model; what they all share is the first one's."""
    first = cells[0]
    called = {cell["detector"]: parse_one(cell["detector"]).name for cell in cells}
    return Look(
        {called[cell["detector"]]: _short(cell["score"]) for cell in cells},
        {called[cell["detector"]]: cell["suspect"] for cell in cells if cell["suspect"] is not None},
        {fact: _short(first[fact]) for fact in ("acc", "confidence", "weights") if first.get(fact) is not None},
        attack=first["attack"] if given(first, "attack") else "", target=first["target"], seed=first["seed"],
        asr=_short(first["asr"]) if first["asr"] is not None else None,
    )  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


if __name__ == "__main__":
    for name in MADE_OF:
        (SHELVES / f"{name}.json").write_text(text(name))
