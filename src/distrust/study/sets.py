"""Sets: the stages that make images: condensed, poisoned, sifted; and how a store keeps them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..data import ImageSet
from ..data.images import changed, rows_in
from ..data.synthetic import pack_set, unpack_set
from ..measurement import Backdoor
from ..methods.metrics._archetypes import archetypes
from ..methods.metrics.difference import difference
from ..methods.metrics.sifting import sifting
from ..methods.metrics.stealth import stealth
from ..registry import registry
from ..seeds import rng
from .inputs import data, load_model, poison
from .stages import Stage
from .store import Record, Store, pack

SET = "images.safetensors"
Result = tuple[Record, dict[str, bytes]]


def condense(stage: Stage, store: Store, device: torch.device) -> Result:
    """Condense the training images, poisoned or not."""
    r = stage.recipe
    train, _ = poison(data(r["images"]).train, r["attack"], r["seed"])
    method = registry.get("condensers", r["condenser"]["name"])
    made = method.call(train.to(device), **r["condenser"]["options"], rng=rng("condense", r["seed"]))
    return {"images": len(made)}, {SET: pack_set(made.to("cpu"))}


def draw_archetypes(stage: Stage, store: Store, device: torch.device) -> Result:
    """For every class of a synthetic set the image of which a network trained on it is surest; as the attack has it."""
    o, draw = stage.recipe["options"], rng("attack", stage.recipe["seed"])  # so these are the attack's very own
    made = unpack_set(store.read(stage.parents[0].key, SET)).to(device)
    drawn = archetypes(made, **o, rng=draw)
    return {"images": len(drawn)}, {SET: pack(x=drawn.x)}


def _poison_synthetic(stage: Stage, store: Store, device: torch.device) -> Result:
    r = stage.recipe
    clean = unpack_set(store.read(stage.parents[0].key, SET))
    method = registry.get("attacks", r["attack"]["name"])
    raw = (data(r["images"]).train.to(device),) if "raw" in method.inputs else ()
    poisoned, backdoor = method.call(clean.to(device), *raw, **r["attack"]["options"], rng=rng("attack", r["seed"]))
    poisoned = poisoned.to("cpu")
    facts = {"images": len(poisoned), "stealth": _facts(difference(clean, poisoned))}
    return facts, {**trigger_files(backdoor), SET: pack_set(poisoned)}


def poison_set(stage: Stage, store: Store, device: torch.device) -> Result:
    """Poison the images of a distillation, or a synthetic set."""
    if stage.role == "class":
        return _poison_synthetic(stage, store, device)
    r = stage.recipe
    transfer = data(r["images"]).train
    method = registry.get("attacks", r["attack"]["name"])
    teacher = load_model(store, stage.parents[0].key).to(device)
    poisoned, backdoor = method.call(teacher, transfer, **r["attack"]["options"], rng=rng("attack", r["seed"]))
    facts = {"stealth": _facts(stealth(teacher, transfer, poisoned, backdoor)), "images": len(poisoned)}
    return facts, {**trigger_files(backdoor), SET: pack_change(transfer, poisoned)}


def sift(stage: Stage, store: Store, device: torch.device) -> Result:
    """A defence of the transfer set, and what it took away, poisoned and clean; or of a synthetic set."""
    r = stage.recipe
    if stage.role == "class":
        suspect = unpack_set(store.read(stage.parents[0].key, SET)).to(device)
        method = registry.get("defenses", r["defense"]["name"])
        cleaned = method.call(suspect, **r["defense"]["options"], rng=rng("defense", r["seed"])).to("cpu")
        return {"images": len(cleaned)}, {SET: pack_set(cleaned)}
    cut = data(r["images"])
    teacher = load_model(store, stage.parents[0].key).to(device)
    transfer = transfer_set(stage, store)
    method = registry.get("defenses", r["defense"]["name"])
    sifted = method.call(teacher, transfer, cut.clean, **r["defense"]["options"], rng=rng("defense", r["seed"]))
    facts = {**sifting(cut.train, transfer, sifted), "images": len(sifted)}
    return facts, {SET: pack_change(cut.train, sifted)}


def _facts(found: Mapping[str, float | None]) -> Record:
    return {name.removeprefix("poison_"): value for name, value in found.items()}


def transfer_set(stage: Stage, store: Store) -> ImageSet:
    """The images that a stage distils on or sifts: as they are, poisoned or sifted."""
    images = data(stage.recipe["images"]).train
    made = next((p for p in stage.parents if p.kind in ("poison", "sift")), None)
    if made is None:
        return images
    return unpack_change(images, store.tensors(made.key, SET), made.taint)


def trigger_files(backdoor: Backdoor) -> dict[str, bytes]:
    """The files from which `load_backdoor` reads it again."""
    text, tensors = backdoor.dump()
    return {"trigger.json": text.encode(), "trigger.safetensors": tensors}


def pack_change(before: ImageSet, after: ImageSet) -> bytes:
    """`after` as its difference from `before`: a few images instead of all of them."""
    at = changed(before, after).nonzero().flatten()
    return pack(rows=rows_in(before, after), at=at, x=after.x[at])


def unpack_change(before: ImageSet, tensors: Mapping[str, Tensor], taint: tuple[str, ...]) -> ImageSet:
    """What `pack_change` was given, from the same `before`."""
    images = before[tensors["rows"]]
    x = images.x.clone()
    x[tensors["at"]] = tensors["x"]
    return images.replace(x=x, taint=taint)
