"""Codecs: how a product becomes files and facts of a record, by its type, and is read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ..allowed import code_from
from ..data import ImageSet, Late
from ..data.images import changed, rows_in
from ..data.synthetic import pack_set, unpack_set
from ..files import artefact_name
from ..measurement import Backdoor, Finding
from ..models import model as make_model
from ..models.heads import make as make_head
from ..tensors import load_weights, model_bytes
from ..training import Probe
from .graph import Stage
from .records import Files

Facts = dict[str, Any]
Fetch = Callable[[str], Any]  # the product that a parameter of the stage was given
SET, TENSORS = "images.safetensors", "tensors.safetensors"


def dump(made: Any, stage: Stage, fetch: Fetch) -> tuple[Facts, Files]:
    """Facts for the record, and files; of a tuple all of theirs together, a mapping in it being notes."""
    if stage.kind == "metric":
        return {"value": made}, {}
    if isinstance(made, tuple):
        facts, files = Facts(), Files()
        for part in made:
            more, beside = ({"notes": part}, Files()) if isinstance(part, dict) else dump(part, stage, fetch)
            facts, files = facts | more, files | beside
        return facts, files
    if isinstance(made, Backdoor):
        text, tensors = made.dump()
        return {"backdoor": made.name}, {"trigger.json": text.encode(), "trigger.safetensors": tensors}
    if isinstance(made, Probe):
        name, weights = artefact_name(stage.taint), {k: v.cpu() for k, v in made.head.state_dict().items()}
        return {"head": made.head.spec, "file": name}, {name: pack(weights)}
    if isinstance(made, nn.Module):
        name = artefact_name(stage.taint)
        facts = {"taint": list(stage.taint), "key": stage.key}
        return {"spec": made.spec, "file": name}, {name: model_bytes(made.cpu(), facts)}
    if isinstance(made, ImageSet):
        facts = {"images": len(made)}
        if base := _base(stage):
            return facts, {SET: pack(_change(fetch(base), made.to("cpu")))}
        return facts, {SET: pack_set(made.to("cpu"))}
    if isinstance(made, Finding):
        return {"finding": made.record()}, {}
    if isinstance(made, Mapping) and made and all(isinstance(value, Tensor) for value in made.values()):
        return {}, {TENSORS: pack(made)}
    return {"value": made}, {}


def undump(record: Facts, stage: Stage, read: Callable[[str], bytes], fetch: Fetch) -> Mapping[str, Any]:
    """The parts of a product by what a parameter may ask for: "" is the product itself."""
    parts: dict[str, Any] = {**record.get("notes", {})}
    if "backdoor" in record:
        text, pixels = read("trigger.json").decode(), read("trigger.safetensors")
        parts["backdoor"] = Backdoor.undump(text, pixels, f"stage {stage.key}")
    if "head" in record:
        head = make_head(**record["head"])
        head.load_state_dict(load(read(record["file"])))
        parts[""] = Probe(fetch("encoder"), head).eval()
    elif "spec" in record:
        weights = load(read(record["file"]))
        with code_from():  # a record is data: it chooses no code
            network = make_model(**record["spec"])
        parts[""] = load_weights(network, weights, f"stage {stage.key}").eval()
    elif "images" in record:
        data, base = read(SET), _base(stage)
        late = parts["backdoor"].trigger if "backdoor" in parts else None
        parts[""] = _changed(fetch(base), load(data), stage.taint, late) if base else unpack_set(data)
    elif "finding" in record:
        parts[""] = Finding.made(record["finding"])
    elif "value" in record:
        parts[""] = record["value"]
    else:
        parts[""] = load(read(TENSORS))
    return parts


def parts_of(made: Any) -> Mapping[str, Any]:
    """The same of a product that was just made."""
    first, *more = made if isinstance(made, tuple) else (made,)
    parts: dict[str, Any] = {}
    for part in more:
        parts |= {"backdoor": part} if isinstance(part, Backdoor) else part
    return {**parts, "": first}


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    return save({name: value.contiguous() for name, value in tensors.items()})


def _base(stage: Stage) -> str:
    """The input that a set is a changed copy of; "" of a set that was made anew."""
    attacks = stage.call.get("method", "").startswith("attacks/")
    return next((name for name in ("transfer", "train") if name in stage.inputs and (attacks or name != "train")), "")


def _change(before: ImageSet, after: ImageSet) -> dict[str, Tensor]:
    """`after` as its difference from `before`: a few images instead of all of them."""
    at, rows = changed(before, after).nonzero().flatten(), rows_in(before, after)
    told = {"rows": rows, "at": at, "x": after.x[at]}
    told |= {} if torch.equal(before.y[rows].cpu(), after.y) else {"y": after.y}
    return told | ({} if after.late is None else {"late": after.late.rows})


def _changed(
    before: ImageSet, tensors: Mapping[str, Tensor], taint: tuple[str, ...], trigger: nn.Module | None = None
) -> ImageSet:
    """What `_change` was given, from the same `before`; `trigger` is put on late where some of it is."""
    images = before[tensors["rows"]]
    x = images.x.clone()
    x[tensors["at"]] = tensors["x"]
    late = Late(tensors["late"], trigger) if "late" in tensors and trigger else images.late
    return images.replace(x=x, y=tensors.get("y", images.y), late=late, taint=taint)
