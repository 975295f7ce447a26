"""Show: what a plan will cost, what a store holds, and the data of a report."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..data import ImageSet
from ..data.sources import images as open_images
from ..data.synthetic import unpack_set
from ..errors import DistrustError
from ..flags import MEANING
from ..models import model as make_model
from ..reporting import Report
from ..reporting.features import MOST, feature_map
from ..reporting.labels import labels, shortened
from ..reporting.pictures import strip
from ..training import fit
from .axes import AXES
from .builder import IMAGE_OPTIONS
from .cells import Cell
from .inputs import data, load_backdoor, poison
from .sets import SET
from .stages import Plan, PlannedCell, Stage
from .store import Record, Store

SHARES = {"clean": "clean", "validation": "validation"}
STRIP = 6  # pictures shown for an attack


def estimate(plan: Plan, waiting: Iterable[Stage], jobs: int) -> float:
    """Seconds that the waiting stages will take, from a timed step of each model on this machine."""
    speed: dict[tuple[str, int], float] = {}
    opened, total = functools.cache(open_images), 0.0
    for stage in waiting:
        recipe = stage.recipe["images"]
        train, test = opened(**_which(recipe))
        n = {"test": min(recipe["test"] or len(test), len(test))}
        n["train"] = min(
            recipe["train"] or len(train),
            round(len(train) * (1 - recipe.get("held", recipe["clean"]) - recipe["validation"])),
        )
        n["class"] = len(train.classes)
        n |= {role: round(len(train) * recipe[share]) for role, share in SHARES.items()}
        name = _model_of(stage)
        at = (name, train.x.shape[-1])
        if at not in speed:
            speed[at] = _images_a_second(make_model(name, train), train)
        total += stage.passes * n[stage.role] / speed[at]
    return total / jobs


def _which(recipe: Record) -> dict[str, Any]:
    """What a source is asked for."""
    return {k: recipe[k] for k in ("source", *IMAGE_OPTIONS) if recipe.get(k)}


def _model_of(stage: Stage) -> str:
    while not {"model", "condenser"} & stage.recipe.keys():
        stage = stage.parents[0]
    return stage.recipe.get("model") or stage.recipe["condenser"]["options"].get("network", "convnet3")


def _images_a_second(model: nn.Module, images: ImageSet, batch: int = 64, steps: int = 4) -> float:
    few = images[: batch * steps]
    options: dict[str, Any] = {
        "epochs": 1,
        "batch_size": batch,
        "precision": "fp32",
        "memory_format": "channels_last",
    }
    fit(model, few[:batch], **options)  # the first step allocates
    start = time.perf_counter()
    fit(model, few, **options)
    return len(few) / (time.perf_counter() - start)


def lineage_of(cells: list[Cell], store: Store) -> dict[str, Record]:
    """The record of every stage behind the cells that the store still has."""
    found: dict[str, Record] = {}

    def visit(key: str) -> None:
        record = None if key in found else store.record(key)
        if record is None:
            return
        found[key] = {
            "kind": record["kind"], "method": record["label"],
            "options": _options(record["recipe"]) | ({"chosen": record["option"]} if "option" in record else {}),
            "seconds": record["seconds"], "parents": record["parents"], "flags": record["flags"],
            "state": record["state"],
        }  # fmt: skip
        for parent in record["parents"]:
            visit(parent)

    for cell in cells:
        for key in cell["keys"].values():
            visit(key)
    return found


def _options(recipe: Record) -> Record:
    """What a reader wants to know of a recipe; hashes and images are left out."""
    options = dict(recipe.get("options", {}))
    for part in ("attack", "condenser", "encoder", "distiller", "defense"):
        if isinstance(recipe.get(part), dict):
            options[recipe[part]["name"]] = recipe[part]["options"]
    return options


def pictures_of(plan: Plan, store: Store) -> dict[str, dict[str, Any]]:
    """For each attack, some test images, the same with its trigger, and the difference, as far as they are here."""
    found: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        name, attack = cell.axes["attack"], cell.seen.recipe["attack"]
        if attack is None or name in found:
            continue
        try:
            train, test = open_images(**_which(cell.seen.recipe["images"]))
            if cell.place == 1:
                _, backdoor = poison(train[:: max(len(train) // 500, 1)], attack, 0)
            else:
                backdoor, _ = load_backdoor(cell.seen, store)
            if backdoor is None or backdoor.target >= len(test.classes):
                continue
            target = test.classes[backdoor.target]
            caption = f"{name}: every image should become “{target}”."
            few = test[test.hard != backdoor.target][:STRIP]
            stamped = _bytes(backdoor.stamp_on(few.pixels()))
            if cell.place == 4:
                few, stamped = _synthetic(cell, store)
                caption = f"{name}: images of the synthetic set. On the trigger, a network should say “{target}”."
            if cell.place == 3:
                few, stamped = _poisons(cell, store)
                caption = f"{name}: of the transfer set. The teacher should call each, trigger and all, “{target}”."
        except DistrustError:
            continue  # the images, or the trigger, are not here; the numbers are
        if cell.place == 2:
            caption += f" This trigger was made for {cell.axes['teacher']}, seed {cell.seed}."
        found[name] = strip(few.x, stamped, caption=caption)
    return found


def _poisons(cell: PlannedCell, store: Store) -> tuple[ImageSet, torch.Tensor]:
    """Some images of a transfer set before they were poisoned, and after."""
    (poison,) = (stage for stage in cell.final if stage.kind == "poison")
    rows = store.tensors(poison.key, "images.safetensors")
    at = rows["at"][:STRIP]
    before = data(poison.recipe["images"]).train[rows["rows"][at]]
    return before, rows["x"][: len(at)]


def _synthetic(cell: PlannedCell, store: Store) -> tuple[ImageSet, torch.Tensor]:
    """The images of a synthetic set that an attack moved farthest, before and after."""
    (poison,) = (stage for stage in cell.final if stage.kind == "poison")
    before, after = (unpack_set(store.read(stage.key, SET)) for stage in (poison.parents[0], poison))
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
            tensors = store.tensors(planned.embed.key, "embedding.safetensors")
            laid = feature_map(tensors["y"], tensors["clean"], tensors["triggered"], planned.target)
        except DistrustError:
            continue  # not run yet, or nothing that could be laid out
        found[i] = {key: measured[planned.id].get(key) for key in ("study", "budget", *AXES, "seed", "asr")} | laid
        if len(found) == MOST:
            break
    return [found[i] for i in sorted(found)]


def report_of(cells: list[Cell], plan: Plan | None, store: Store, made_by: str) -> Report:
    """Gather the data of a report; what the store or the images lack is left out."""
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


def status_of(store: Store) -> Record:
    """How many stages of each kind are done, failed or skipped, and what they cost."""
    keys = store.keys()
    records = [store.record(key) or {} for key in keys]
    counts = Counter((r["kind"], r["state"]) for r in records)
    return {
        "store": store.url,
        "stages": len(records),
        "seconds": round(sum(r["seconds"] for r in records), 1),
        "by_kind": {f"{kind} {state}": n for (kind, state), n in sorted(counts.items())},
        "failed": {key: r["error"] for key, r in zip(keys, records, strict=True) if r["state"] == "failed"},
    }
