"""Sets: the stages that make images: condensed, poisoned, sifted; and how a store keeps them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..data import ImageSet
from ..data.synthetic import pack_set, unpack_set
from ..measurement import Backdoor
from ..measurement.curator import changed, difference, rows_in, stealth
from ..methods.attacks._archetypes import archetypes, fresh, train, units_of
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
    made = method.made(r["condenser"]["options"])(train.to(device), rng=rng("condense", r["seed"]))
    return {"images": len(made)}, {SET: pack_set(made.to("cpu"))}


def draw_archetypes(stage: Stage, store: Store, device: torch.device) -> Result:
    """For every class of a synthetic set the image of which a network trained on it is surest; as the attack has it."""
    o, draw = stage.recipe["options"], rng("attack", stage.recipe["seed"])  # so these are the attack's very own
    made = unpack_set(store.read(stage.parents[0].key, SET)).to(device)
    units, k = units_of(made), len(made.classes)
    legal = o["legal"] and not o["as_published"]
    with torch.enable_grad():
        net = train(fresh(o["network"], made, units, draw), made.pixels(), made.y, o["net_steps"], o["net_lr"])
        shape = tuple(made.x.shape[1:])
        x = archetypes(net, units, shape, k, o["archetypes_per_class"], o["archetype_steps"], legal, draw)
    return {"images": len(x)}, {SET: pack(x=x.cpu())}


def _poison_synthetic(stage: Stage, store: Store, device: torch.device) -> Result:
    r = stage.recipe
    clean = unpack_set(store.read(stage.parents[0].key, SET))
    method = registry.get("attacks", r["attack"]["name"])
    raw = (data(r["images"]).train.to(device),) if "raw" in method.inputs else ()
    poisoned, backdoor = method.made(r["attack"]["options"])(clean.to(device), *raw, rng=rng("attack", r["seed"]))
    poisoned = poisoned.to("cpu")
    facts = {"images": len(poisoned), "stealth": difference(clean, poisoned)}
    return facts, {**trigger_files(backdoor), SET: pack_set(poisoned)}


def poison_set(stage: Stage, store: Store, device: torch.device) -> Result:
    """Poison the images of a distillation, or a synthetic set."""
    if stage.role == "class":
        return _poison_synthetic(stage, store, device)
    r = stage.recipe
    transfer = data(r["images"]).train
    method = registry.get("attacks", r["attack"]["name"])
    teacher = load_model(store, stage.parents[0].key).to(device)
    poisoned, backdoor = method.made(r["attack"]["options"])(teacher, transfer, rng=rng("attack", r["seed"]))
    facts = {"stealth": stealth(teacher, transfer, poisoned, backdoor)._asdict(), "images": len(poisoned)}
    return facts, {**trigger_files(backdoor), SET: pack_change(transfer, poisoned)}


def sift(stage: Stage, store: Store, device: torch.device) -> Result:
    """A defence of the transfer set, and what it took away, poisoned and clean; or of a synthetic set."""
    r = stage.recipe
    if stage.role == "class":
        suspect = unpack_set(store.read(stage.parents[0].key, SET)).to(device)
        method = registry.get("defenses", r["defense"]["name"])
        cleaned = method.made(r["defense"]["options"])(suspect, rng=rng("defense", r["seed"])).to("cpu")
        return {"images": len(cleaned)}, {SET: pack_set(cleaned)}
    cut = data(r["images"])
    teacher = load_model(store, stage.parents[0].key).to(device)
    transfer = transfer_set(stage, store)
    method = registry.get("defenses", r["defense"]["name"])
    sifted = method.made(r["defense"]["options"])(teacher, transfer, cut.clean, rng=rng("defense", r["seed"]))
    poisoned = changed(cut.train, transfer)
    gone = ~torch.isin(transfer.index, sifted.index)
    facts = {
        "caught": float(gone[poisoned].double().mean()) if poisoned.any() else None,
        "lost": float(gone[~poisoned].double().mean()), "images": len(sifted),
    }  # fmt: skip
    return facts, {SET: pack_change(cut.train, sifted)}


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
