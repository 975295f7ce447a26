"""Gather: the data of a report, from cells, a plan and a store; what the store or the images lack is left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ..data import ImageSet
from ..data.images import changed, rows_in
from ..errors import DistrustError
from ..flags import MEANING
from ..study.axes import AXES
from ..study.cells import Cell
from ..study.codecs import TENSORS
from ..study.graph import Plan, PlannedCell
from ..study.store import Record, Store
from ..study.work import product
from .data import Report
from .features import MOST, feature_map
from .labels import labels, shortened
from .pictures import strip

STRIP = 6  # pictures shown for an attack


def report_of(cells: list[Cell], plan: Plan | None, store: Store, made_by: str) -> Report:
    """The data of a report."""
    short = labels(cells)
    published = [row for rows in {repr(c["published"]): c["published"] for c in cells}.values() for row in rows]
    shown = [{**c, "student": None if c["student"] == "none" else c["student"]} for c in shortened(cells)]
    return Report(
        title=cells[0]["study"],
        cells=shown,
        embeddings=embeddings_of(plan, store, shown) if plan else [],
        pictures={short["attack"][name]: found for name, found in (pictures_of(plan, store) if plan else {}).items()},
        lineage=lineage_of(cells, store),
        published=[{k: short.get(k, {}).get(v, v) for k, v in row.items()} for row in published],
        glossary=dict(MEANING),
        made_by=made_by,
        question=plan.study.question if plan else "",
    )


def lineage_of(cells: list[Cell], store: Store) -> dict[str, Record]:
    """The record of every stage behind the cells that the store still has."""
    found: dict[str, Record] = {}

    def visit(key: str) -> None:
        record = None if key in found else store.record(key)
        if record is None:
            return
        options = _options(record["recipe"]) | (
            {"chosen": record["notes"]["option"]} if record["kind"] == "choose" else {}
        )
        kept = {name: record[name] for name in ("kind", "seconds", "parents", "flags", "state")}
        found[key] = {**kept, "method": record["label"], "options": options}
        for parent in record["parents"]:
            visit(parent)

    for cell in cells:
        for key in cell["keys"].values():
            visit(key)
    return found


def _options(call: Record) -> Record:
    """What a reader wants to know of a call: its options, those of calls inside it by their method's name."""
    found = {}
    for name, value in call["options"].items():
        inner = isinstance(value, dict) and "method" in value
        found[value["method"].partition("/")[2] if inner else name] = value["options"] if inner else value
    return found


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
            target = test.classes[backdoor.target]
            caption = f"{name}: every image should become “{target}”."
            few = test[test.hard != backdoor.target][:STRIP]
            stamped = _bytes(backdoor.stamp_on(few.pixels()))
            if cell.place == 4:
                few, stamped = _moved(product(ours["before"], store), product(ours["poisoned"], store))
                caption = f"{name}: images of the synthetic set. On the trigger, a network should say “{target}”."
            if cell.place == 3:
                few, stamped = _changed(product(ours["before"], store), product(ours["poisoned"], store))
                caption = f"{name}: of the transfer set. The teacher should call each, trigger and all, “{target}”."
        except DistrustError:
            continue  # the images, or the trigger, are not here; the numbers are
        if cell.place == 2:
            caption += f" This trigger was made for {cell.axes['teacher']}, seed {cell.seed}."
        found[name] = strip(few.x, stamped, caption=caption)
    return found


def _changed(before: ImageSet, after: ImageSet) -> tuple[ImageSet, torch.Tensor]:
    """Some images of a transfer set before they were poisoned, and after."""
    rows = rows_in(before, after)
    at = changed(before, after).nonzero().flatten()[:STRIP]
    return before[rows[at]], after.x[at]


def _moved(before: ImageSet, after: ImageSet) -> tuple[ImageSet, torch.Tensor]:
    """The images of a synthetic set that an attack moved farthest, before and after."""
    n = len(before)
    moved = (after.pixels(slice(n)) - before.pixels()).flatten(1).norm(dim=1)
    rows = moved.topk(min(STRIP, n)).indices.sort().values
    there = rows
    if not moved.any():  # images were only added
        rows = torch.arange(min(STRIP, n, len(after) - n))
        there = rows + n
    return before[rows].replace(x=_bytes(before.pixels(rows))), _bytes(after.pixels(there))


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def embeddings_of(plan: Plan, store: Store, cells: list[Cell]) -> list[dict[str, Any]]:
    """Maps of the features that the store has, in the plan's order; where they are too many, attacks take turns."""
    measured = {cell["id"]: cell for cell in cells if cell["state"] == "done"}
    turns: Counter[str] = Counter()
    waiting: list[tuple[int, int, PlannedCell]] = []
    for i, planned in enumerate(plan.cells):
        if planned.embed and planned.id in measured:
            attack = planned.axes["attack"]
            waiting.append((turns[attack], i, planned))
            turns[attack] += 1
    found: dict[int, dict[str, Any]] = {}
    for _, i, planned in sorted(waiting, key=lambda entry: entry[:2]):
        assert planned.embed and planned.target is not None  # only attacked cells are embedded
        try:
            tensors = store.tensors(planned.embed.key, TENSORS)
            laid = feature_map(tensors["y"], tensors["clean"], tensors["triggered"], planned.target)
        except DistrustError:
            continue  # not run yet, or nothing that could be laid out
        found[i] = {
            key: measured[planned.id].get(key) for key in (*AXES, "place", "study", "budget", "seed", "asr")
        } | laid
        if len(found) == MOST:
            break
    return [found[i] for i in sorted(found)]
