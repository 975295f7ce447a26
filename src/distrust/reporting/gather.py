"""Gather: the data of a report, from cells, a plan and a store; what the store or the images lack is left out."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import ImageSet
from ..data.images import changed, rows_in
from ..errors import DistrustError, notice
from ..study.axes import AXES
from ..study.cells import Cell
from ..study.codecs import TENSORS
from ..study.graph import Plan, PlannedCell, Stage
from ..study.plan import make_plan
from ..study.records import Damaged, Record
from ..study.spec import read_study
from ..study.store import Store
from ..study.work import described, product
from .data import Report
from .features import MOST, feature_map
from .labels import labels, shortened
from .pictures import strip

STRIP = 6  # pictures shown for an attack
CAPTION = "{0}: every image should become “{1}”."
CAPTIONS = {  # by where the attack enters
    2: CAPTION + " This trigger was made for {2}, seed {3}.",
    3: "{0}: of the transfer set. The teacher should call each, trigger and all, “{1}”.",
    4: "{0}: images of the synthetic set. On the trigger, a network should say “{1}”.",
}


def report_of(cells: Sequence[Cell], plan: Plan | None, store: Store, made_by: str) -> Report:
    """The data of a report."""
    short, shown = labels(cells), shortened(cells)
    strips = pictures_of(plan, store) if plan else {}
    published = [row for rows in {repr(c["published"]): c["published"] for c in cells}.values() for row in rows]
    return Report(
        title=cells[0]["study"],
        cells=shown,
        embeddings=embeddings_of(plan, store, shown) if plan else [],
        pictures={short["attack"][name]: strip for name, strip in strips.items() if name in short["attack"]},
        lineage=lineage_of(cells, store, plan.stages if plan else {}),
        published=[{k: short.get(k, {}).get(v, v) for k, v in row.items()} for row in published],
        made_by=made_by,
        question=plan.study.question if plan else "",
    )


def plan_behind(cells: Sequence[Cell], demo: Path) -> Plan | None:
    """The plan behind cells, if their study file is here: the numbers are in the cells, pictures need the plan."""
    with contextlib.suppress(DistrustError, ValueError, OSError):  # whatever stands in a cell
        words = [*shlex.split(cells[0]["reproduce"]), "", "", ""]
        return make_plan(read_study(demo if words[1] == "demo" else words[2], budget=cells[0]["budget"]))
    return None


def lineage_of(cells: Sequence[Cell], store: Store, planned: Mapping[str, Stage]) -> dict[str, Record]:
    """The record of every stage behind the cells; of one that the store does not have, what the plan says."""
    found: dict[str, Record] = {}
    waiting, seen = [key for cell in cells for key in cell["keys"].values()], set[str]()
    while waiting:
        key, record = waiting.pop(), None
        if key in seen:
            continue
        seen.add(key)
        try:
            record = store.record(key)
        except Damaged as error:
            notice(f"{error} It is left out.")
        if record is None and key not in planned:
            continue
        record = record or described(planned[key])
        waiting += record["parents"]
        found[key] = {name: record.get(name) for name in ("kind", "seconds", "parents", "flags", "state")}
        found[key] |= {"method": record["label"], "options": _options(record["recipe"])}
        if record["kind"] == "choose":
            found[key]["options"]["chosen"] = record.get("notes", {}).get("option")
    return found


def _options(call: Record) -> Record:
    """What a reader wants to know of a call: its options, those of calls inside it by their method's name."""
    options = call.get("options", {})
    calls = {k: v for k, v in options.items() if isinstance(v, dict) and "method" in v}
    inside = {str(v["method"]).partition("/")[2]: v.get("options") for v in calls.values()}
    return {k: v for k, v in options.items() if k not in calls} | inside


def pictures_of(plan: Plan, store: Store) -> dict[str, dict[str, Any]]:
    """For each attack, some test images, the same with its trigger, and the difference, as far as they are here."""
    found: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        name, ours = cell.axes["attack"], cell.arms["ours"]
        if name in found or "backdoor" not in ours:
            continue
        try:
            backdoor, test = product(ours["backdoor"], store, "backdoor"), product(ours["test"], store)
            if backdoor.target >= len(test.classes):
                continue
            if cell.place in (3, 4):
                clean, stamped = _poisoned(cell.place, product(ours["before"], store), product(ours["poisoned"], store))
            else:
                clean = test[test.hard != backdoor.target][:STRIP].pixels()
                stamped = backdoor.stamp_on(clean)
        except DistrustError:
            continue  # the images, or the trigger, are not here; the numbers are
        caption = CAPTIONS.get(cell.place or 1, CAPTION).format(
            name, test.classes[backdoor.target], cell.axes["teacher"], cell.seed
        )
        before, after = ((x.clamp(0, 1) * 255).round().to(torch.uint8) for x in (clean, stamped))
        found[name] = strip(before, after, caption=caption)
    return found


def _poisoned(place: int, before: ImageSet, after: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Some images of a transfer set that an attack changed, or of a synthetic set those it moved farthest."""
    if place == 3:
        there = changed(before, after).nonzero().flatten()[:STRIP]
        return before.pixels(rows_in(before, after)[there]), after.pixels(there)
    n = len(before)
    moved = (after.pixels(slice(n)) - before.pixels()).flatten(1).norm(dim=1)
    rows = there = moved.topk(min(STRIP, n)).indices.sort().values
    if not moved.any():  # images were only added
        rows = torch.arange(min(STRIP, n, len(after) - n))
        there = rows + n
    return before.pixels(rows), after.pixels(there)


def embeddings_of(plan: Plan, store: Store, cells: list[Cell]) -> list[dict[str, Any]]:
    """Maps of the features that the store has, in the plan's order; where they are too many, attacks take turns."""
    measured = {cell["id"]: cell for cell in cells if cell["state"] == "done"}
    turns: Counter[str] = Counter()
    waiting: list[tuple[int, PlannedCell, Stage]] = []
    for planned in plan.cells:
        if planned.embed and planned.id in measured:
            waiting.append((turns[planned.axes["attack"]], planned, planned.embed))
            turns[planned.axes["attack"]] += 1
    found: dict[str, dict[str, Any]] = {}
    for _, planned, embed in sorted(waiting, key=lambda entry: entry[0]):
        if len(found) == MOST:
            break
        with contextlib.suppress(DistrustError):  # not run yet, or nothing that could be laid out
            assert planned.target is not None  # only attacked cells are embedded
            tensors = store.tensors(embed.key, TENSORS)
            laid = feature_map(tensors["y"], tensors["clean"], tensors["triggered"], planned.target)
            named = (*AXES, "place", "study", "budget", "seed", "asr")
            found[planned.id] = {key: measured[planned.id].get(key) for key in named} | laid
    return [found[planned.id] for planned in plan.cells if planned.id in found]
