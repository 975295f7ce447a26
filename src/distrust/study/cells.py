"""Cells: one flat object a line of a table, scored from stored predictions; re-scored without re-running."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import BadInput, NotFound
from ..files import write_file
from ..measurement import Seen, score
from .run import Outcome
from .spec import AXES
from .stages import Plan, PlannedCell, Stage
from .store import Store

Cell = dict[str, Any]


def score_cells(plan: Plan, store: Store, outcome: Outcome) -> list[Cell]:
    """Score every planned cell from what the store has; cells without predictions carry their error."""
    reader = _Reader(store, outcome)
    return [_cell(planned, plan, reader) for planned in plan.cells]


class _Reader:
    """Reads each stage's predictions once."""

    def __init__(self, store: Store, outcome: Outcome) -> None:
        self.store, self.records = store, outcome.records
        self.seen: dict[str, dict[str, Tensor]] = {}

    def __call__(self, stage: Stage) -> dict[str, Tensor] | None:
        record = self.records.get(stage.key)
        if record is None or record["state"] != "done":
            return None
        if stage.key not in self.seen:
            tensors = self.store.tensors(stage.key, "predictions.safetensors")
            self.seen[stage.key] = {k: v.long() for k, v in tensors.items()}
        return self.seen[stage.key]


def _cell(planned: PlannedCell, plan: Plan, read: _Reader) -> Cell:
    study = plan.study
    lineage = list(_lineage(planned.seen))
    cell: Cell = {
        "id": planned.id, "study": study.name, "budget": study.budget, **planned.axes, "place": planned.place,
        "seed": planned.seed, "state": "done", "error": None, "target": planned.target,
    }  # fmt: skip
    records = [read.records[s.key] for s in lineage if s.key in read.records]
    passed_over = {
        p.key for s in lineage if s.kind == "choose"
        for p in s.parents[1:] if p.key != read.records.get(s.key, {}).get("chosen")
    }  # fmt: skip
    flags = [f for s in lineage if s.key not in passed_over for f in read.records.get(s.key, {}).get("flags", ())]
    seen = read(planned.seen)
    if seen is None:
        last = read.records.get(planned.seen.key, {"state": "missing", "error": "not run yet"})
        cell |= {"state": last["state"], "error": last.get("error"), "flags": sorted(set(flags))}
        cell |= dict.fromkeys(("acc", "asr", "asr_all", "base", "untriggered", "titg", "carried", "carry_over"))
    else:
        cell |= _score(planned, read, flags, study.seeds)
    cell["published"] = _published(study.published, planned.axes)
    choice = next((r for r in records if "chosen" in r), {})
    cell |= {"chosen": choice.get("option"), "validation": choice.get("validation")}
    cell["seconds"] = round(sum(r["seconds"] for r in records), 1)
    cell["keys"] = planned.keys
    for record in records:  # what was done to a transfer set
        cell |= {name: record[name] for name in ("caught", "lost") if name in record}
        cell |= {f"poison_{name}": value for name, value in record.get("stealth", {}).items()}
    for name, stage in (("asr_archetypes", planned.seen), ("base_archetypes", planned.control)):
        if stage and (share := read.records.get(stage.key, {}).get("archetypes")) is not None:
            cell[name] = share
    for name, stage in zip(("score", "score_control"), planned.found, strict=False):
        finding = read.records.get(stage.key, {}).get("finding")
        cell[name] = finding and finding["score"]
        if finding and name == "score":
            named = finding["target"] if len(finding["scores"]) > 1 else None  # an encoder has no classes
            cell |= {"suspect": named, "score_p": finding["p"]}
    if mechanism := read.records.get(planned.seen.key, {}).get("mechanism"):
        kept = ("layer", "channels", "chosen", "rank", "rank_clean", "run")  # the stage's record has every neuron
        cell["mechanism"] = [{k: row[k] for k in kept} for row in mechanism]
    words = ["distrust", "run", study.source, "--budget", study.budget, "--only", planned.id]
    cell["reproduce"] = shlex.join(words)
    cell["env"] = records[-1].get("env") if records else None
    return cell


def _score(planned: PlannedCell, read: _Reader, flags: list[str], seeds: int) -> Cell:
    def look(stage: Stage | None) -> Seen | None:
        found = read(stage) if stage else None
        return Seen(found["y"], found["clean"], found.get("triggered")) if found else None

    products = {"seen": look(planned.seen), "target": planned.target, "control": look(planned.control)}
    if planned.teacher:
        products |= dict(zip(("teacher", "teacher_control"), map(look, planned.teacher), strict=True))
    if planned.undefended:
        products["undefended"] = look(planned.undefended)
    return {"carry_over": None, **score(products, flags=flags, seeds=seeds).record()}


def _lineage(stage: Stage) -> Iterable[Stage]:
    """A stage's ancestors, parents first, each once."""
    done: dict[str, Stage] = {}

    def visit(s: Stage) -> None:
        for parent in s.parents:
            visit(parent)
        done.setdefault(s.key, s)

    visit(stage)
    return done.values()


def _published(rows: list[dict[str, Any]], axes: dict[str, str]) -> list[dict[str, Any]]:
    """Rows whose words are this cell's axes; where there are none, those with which its axes begin."""
    words = [{axis: value for axis, value in row.items() if axis in axes} for row in rows]
    whole = [row for row, own in zip(rows, words, strict=True) if all(axes[a] == v for a, v in own.items())]
    begun = [
        row
        for row, own in zip(rows, words, strict=True)
        if all(axes[a] == v or axes[a].startswith(f"{v}[") for a, v in own.items())
    ]
    return whole or begun


def write_cells(cells: list[Cell], folder: str | Path, whole: bool = False) -> Path:
    """Write one `<id>.json` a cell; if the cells are the `whole` study, remove its older ones.

    Raises:
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    for cell in cells:
        write_file(folder / f"{cell['id']}.json", json.dumps(cell, indent=1, ensure_ascii=False).encode() + b"\n")
    kept = {cell["id"] for cell in cells}
    for file in folder.glob("*.json") if whole else ():
        if file.stem not in kept and _study_of(file) in {cell["study"] for cell in cells}:
            file.unlink()
    return folder


def _study_of(file: Path) -> str | None:
    try:
        return json.loads(file.read_text()).get("study")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        return None  # not a cell, so not ours to remove


def read_cells(folder: str | Path) -> list[Cell]:
    """Read a results folder.

    Raises:
        NotFound: there is no such folder, or no cell in it.
        BadInput: a file in it is not a cell.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json"))
    if not files:
        near = [str(p.parent) for p in folder.parent.glob("*/*.json")]
        raise NotFound.among("results in", str(folder), sorted(set(near)))
    cells = []
    for file in files:
        try:
            cell = json.loads(file.read_text())
            cell["id"], cell["acc"], cell["seed"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInput(f"{file} is not a cell ({error}). Remove it, or give another folder.") from None
        cells.append(cell)
    return cells


def compare(cells: list[Cell], expected: list[Cell]) -> list[str]:
    """Where a second run leaves the first one's intervals: mean ACC and ASR over seeds, cell by cell.

    A mean must lie within the expected mean ± the 95 % interval over its seeds, or, if that is narrower, within
    2 points. Returns one line for each that does not.
    """
    from ..measurement import over_seeds

    lines = []
    ours, theirs = by_axes(cells), by_axes(expected)
    for axes, rows in theirs.items():
        if axes not in ours:
            lines.append(f"{' · '.join(axes)}: not in this run")
            continue
        for name in ("acc", "asr"):
            want = [r[name] for r in rows if r[name] is not None]
            got = [r[name] for r in ours[axes] if r[name] is not None]
            if not want:
                continue
            mean, interval = over_seeds(want)
            reach = max(0.02, interval[1] - mean if interval else 0.0)
            if not got or abs(sum(got) / len(got) - mean) > reach:
                value = f"{sum(got) / len(got):.3f}" if got else "nothing"
                lines.append(f"{' · '.join(axes)}: {name} {value}, expected {mean:.3f} ± {reach:.3f}")
    return lines


def by_axes(cells: list[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Cells that differ only in their seed, together."""
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple(cell[axis] for axis in AXES if axis in cell)].append(cell)
    return dict(groups)
