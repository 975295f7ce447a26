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
from distrust.selectors import Selector, parse_one
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
    taught = sorted({_lesson(cell["distiller"], studies[0]) for cell in cells if given(cell, "distiller")})
    about = {
        "kind": kind, "model": network, "images": source, "shape": [*train.x.shape[1:]], "classes": len(train.classes),
        "panel": [*panel], **({"students": taught} if taught else {}), "study": " ".join(studies),
    }  # fmt: skip
    return Shelf(name, tuple(map(_look, models.values())), about)


def text(name: str) -> str:
    """Its file, a model a line."""
    record = shelf(name).record()
    looks = ",\n".join(json.dumps({k: v for k, v in look.items() if k != "inherited" or v}) for look in record["looks"])
    return f'{{"name": {json.dumps(record["name"])}, "about": {json.dumps(record["about"])}, "looks": [\n{looks}\n]}}\n'


def _look(cells: Sequence[Cell]) -> Look:
    """What all detectors say of one model and of its students; what they all share is the first one's."""
    own = [cell for cell in cells if not given(cell, "distiller")]
    taught = {_name(cell["distiller"]): cell for cell in cells if given(cell, "distiller")}
    first = own[0]
    called = {  # the model itself before its students
        _name(cell["detector"]) + (f"@{_name(cell['distiller'])}" if given(cell, "distiller") else ""): cell
        for cell in sorted(cells, key=lambda cell: bool(given(cell, "distiller")))
    }
    like = {fact: first[fact] for fact in ("acc", "confidence", "weights") if first.get(fact) is not None}
    like |= {f"acc@{distiller}": cell["acc"] for distiller, cell in taught.items()}
    inherited = {distiller: _short(cell["asr"]) for distiller, cell in taught.items() if cell["asr"] is not None}
    return Look(
        {name: _short(cell["score"]) for name, cell in called.items()},
        {name: cell["suspect"] for name, cell in called.items() if cell["suspect"] is not None},
        {name: _short(value) for name, value in like.items()},
        attack=first["attack"] if given(first, "attack") else "", target=first["target"], seed=first["seed"],
        asr=_short(first["asr"]) if first["asr"] is not None else None, inherited=inherited,
    )  # fmt: skip


def _lesson(distiller: str, study: str) -> str:
    """A distiller with the options of its study's students, as an audit takes it."""
    asked, budget = parse_one(distiller), read_toml(ROOT / "studies" / f"{study}.toml")["budgets"]["cpu"]["student"]
    options = {**{k: v for k, v in budget.items() if k != "augment"}, **budget.get("augment", {}), **asked.options}
    return Selector(asked.name, options).text


def _name(selector: str) -> str:
    return parse_one(selector).name


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


if __name__ == "__main__":
    for name in MADE_OF:
        (SHELVES / f"{name}.json").write_text(text(name))
