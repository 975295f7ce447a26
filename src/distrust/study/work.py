"""Work: carry out one stage. Everything it needs is in the stage and the store, so any process can do it."""

from __future__ import annotations

import os
import platform
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Augment, ImageSet, Views
from ..data.synthetic import recipe as training_recipe
from ..data.synthetic import unpack_set
from ..errors import Skip, StoreError
from ..files import artefact_name, model_bytes
from ..flags import Flag, flag
from ..measurement import predict
from ..measurement.embedding import embedding
from ..methods.metrics.mechanism import mechanism
from ..models import eval_mode
from ..models import model as make_model
from ..registry import registry
from ..seeds import rng
from ..training import NeighbourMonitor, distill, fit, fit_head, pretrain
from .inputs import at_most, data, load_backdoor, load_model, poison, references
from .sets import SET, Result, condense, draw_archetypes, poison_set, sift, transfer_set, trigger_files
from .stages import Stage, synthetic
from .store import Record, Store, pack

MONITOR = 2000  # training images that vote, and validation images that are asked, after every epoch of pre-training


def work(stage: Stage, url: str, device: str | None = None) -> Record:
    """Run a stage, write it into the store, and return its record.

    A method's `Skip`, and any error in the stage, become records with state "skipped" or "failed"; only a store
    that cannot be written raises.
    """
    store = Store(url)
    start = time.perf_counter()
    record: Record = {
        "state": "done", "kind": stage.kind, "label": stage.label, "recipe": stage.recipe,
        "parents": [p.key for p in stage.parents], "taint": list(stage.taint), "flags": [],
    }  # fmt: skip
    files: dict[str, bytes] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            facts, files = DO[stage.kind](stage, store, torch.device(device or "cpu"))
            record |= facts
        except StoreError:
            raise
        except Skip as reason:
            record |= {"state": "skipped", "error": f"Skip: {reason}", "flags": ["skipped"]}
        except Exception as error:  # a plug-in may raise anything; the grid goes on
            record |= {"state": "failed", "error": f"{type(error).__name__}: {error}"}
    raised = [w.message.name for w in caught if isinstance(w.message, Flag)]
    record["flags"] = list(dict.fromkeys([*record["flags"], *raised]))
    record["env"] = environment()
    record["seconds"] = round(time.perf_counter() - start, 3)
    store.save(stage.key, record, files)
    return record


def environment() -> dict[str, Any]:
    """Where a number was made; recorded, never part of a key."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": platform.machine(), "peak_mb": peak_memory(),
    }  # fmt: skip


def _teacher(stage: Stage, store: Store, device: torch.device) -> Result:
    r = stage.recipe
    train, _ = poison(data(r["images"]).train, r["attack"], r["seed"])
    model = make_model(r["model"], train, rng=rng("teacher", "start", r["seed"]))
    model = fit(model, train, rng=rng("teacher", r["seed"]), device=device, **_options(r["options"]))
    return _model(stage, model, len(train))


def _pretrain(stage: Stage, store: Store, device: torch.device) -> Result:
    """An encoder, from images whose labels only an attack may have looked at; the record tells what neighbours say."""
    r = stage.recipe
    given = data(r["images"])
    train, _ = poison(given.train, r["attack"], r["seed"])
    start = make_model(r["model"], train, rng=rng("teacher", "start", r["seed"]), head=False)
    loss = registry.get("objectives", r["encoder"]["name"]).made(r["encoder"]["options"])
    views = Views(**{**r["views"], "scale": tuple(r["views"]["scale"])})
    known, asked = (at_most(part, MONITOR, "monitor", r["seed"]) for part in (given.train, given.validation))
    monitor = NeighbourMonitor(known, asked)
    options = {**_options(r["options"]), "monitor": monitor}
    model = pretrain(start, train, loss=loss, views=views, rng=rng("pretrain", r["seed"]), device=device, **options)
    facts, files = _model(stage, model, len(train))
    return {**facts, "neighbours": monitor.accuracy}, files


def _head(stage: Stage, store: Store, device: torch.device) -> Result:
    """A head on an encoder; the record leads to both."""
    r = stage.recipe
    train = data(r["images"]).train
    encoder = load_model(store, stage.parents[0].key).to(device)
    fit_one = registry.get("heads", r["head"]["name"]).made(r["head"]["options"])
    head = fit_head(encoder, train, fit_one, rng=rng("head", r["seed"])).head
    name = artefact_name(stage.taint)
    facts = {"head": head.spec, "encoder": stage.parents[0].key, "file": name, "images": len(train)}
    return facts, {name: pack(**{k: v.cpu() for k, v in head.state_dict().items()})}


def _attack(stage: Stage, store: Store, device: torch.device) -> Result:
    r = stage.recipe
    train = data(r["images"]).train
    method = registry.get("attacks", r["attack"]["name"])
    teacher = load_model(store, stage.parents[0].key).to(device)
    more = []
    if "references" in r:
        downstream = data(r["references"]).train
        more.append(references(teacher, downstream, r["attack"], r["candidates"], r["seed"]))
    planted = method.call(teacher, train, *more, **r["attack"]["options"], rng=rng("attack", r["seed"]))
    facts, files = _model(stage, planted.model, len(train))
    return {**facts, "notes": planted.notes}, {**files, **trigger_files(planted.backdoor)}


def _transfer(stage: Stage, store: Store, device: torch.device) -> Result:
    """The teacher on the victim's images: all layers from the teacher but the last, which starts anew."""
    r = stage.recipe
    train = data(r["images"]).train
    teacher = load_model(store, stage.parents[0].key)
    spec: Record = {**teacher.spec, "classes": len(train.classes)}  # type: ignore[dict-item]
    model = make_model(**spec, rng=rng("transfer", "start", r["seed"]))
    fresh = model.state_dict()
    kept = {k: v for k, v in teacher.state_dict().items() if fresh[k].shape == v.shape}
    model.load_state_dict({**fresh, **kept})
    model = fit(model, train, rng=rng("transfer", r["seed"]), device=device, **_options(r["options"]))
    return _model(stage, model, len(train))


def _victim(stage: Stage, store: Store, device: torch.device) -> Result:
    """A network on the synthetic set, by the set's own recipe; it normalises as the real images ask for."""
    r = stage.recipe
    made = unpack_set(store.read(stage.parents[0].key, SET))
    if made.off_range:
        flag("off-range-images")
    start = make_model(r["model"], data(r["images"]).train, rng=rng("student", "start", r["seed"]))
    options = training_recipe(made, **_options(r["options"]))
    return _model(stage, fit(start, made, rng=rng("student", r["seed"]), device=device, **options), len(made))


def _student(stage: Stage, store: Store, device: torch.device) -> Result:
    r = stage.recipe
    train = transfer_set(stage, store)
    teacher = load_model(store, stage.parents[0].key)
    start = make_model(r["model"], train, rng=rng("student", "start", r["seed"]))
    loss = registry.get("distillers", r["distiller"]["name"]).made(r["distiller"]["options"])
    options = _options(r["options"])
    model = distill(start, teacher, train, loss=loss, rng=rng("student", r["seed"]), device=device, **options)
    return _model(stage, model, len(train))


def _defense(stage: Stage, store: Store, device: torch.device) -> Result:
    r = stage.recipe
    clean = data(r["images"]).clean
    suspect = load_model(store, stage.parents[0].key).to(device)
    method = registry.get("defenses", r["defense"]["name"])
    if method.mark.on != "encoder" and len(clean.hard.unique()) < len(clean.classes):
        flag("class-missing")
    return _model(
        stage,
        method.call(suspect, clean, **r["defense"]["options"], rng=rng("defense", r["seed"])),
        len(clean),
    )


def _detect(stage: Stage, store: Store, device: torch.device) -> Result:
    """A detector with the defender's clean images, or, where there is none, with the synthetic set itself."""
    r = stage.recipe
    method = registry.get("detectors", r["detector"]["name"])
    sets = [unpack_set(store.read(p.key, SET)).to(device) for p in stage.parents if synthetic(p)]
    clean = sets[-1] if sets else data(r["images"]).clean
    suspect = sets[0] if synthetic(stage.parents[0]) else load_model(store, stage.parents[0].key).to(device)
    found = method.call(suspect, clean, **r["detector"]["options"], rng=rng("detect", r["seed"]))
    return {"finding": found.record()}, {}


def _choose(stage: Stage, store: Store, device: torch.device) -> Result:
    """The first candidate, in the study's order, that keeps validation ACC within the limit; else the best.

    A candidate that failed (its rate made it diverge) has no accuracy and is not chosen.
    """
    r = stage.recipe
    validation = data(r["images"]).validation
    there = [(store.record(p.key) or {}).get("state") == "done" for p in stage.parents]
    before, *after = [
        _accuracy(load_model(store, p.key).to(device), validation) if done else None
        for p, done in zip(stage.parents, there, strict=True)
    ]
    scores = [-1.0 if acc is None else acc for acc in after]
    good = [i for i, acc in enumerate(scores) if acc >= max((before or 0.0) - r["within"], 0.0)]
    chosen = good[0] if good else max(range(len(scores)), key=scores.__getitem__)
    facts = {"chosen": stage.parents[1 + chosen].key, "option": r["candidates"][chosen]}
    return {**facts, "validation": {"before": before, "after": after}}, {}


def _predict(stage: Stage, store: Store, device: torch.device) -> Result:
    test = data(stage.recipe["images"]).test
    backdoor, notes = load_backdoor(stage, store)
    model = load_model(store, stage.parents[0].key).to(device)
    small = torch.uint8 if len(test.classes) <= 256 else torch.int32
    tensors: dict[str, Tensor] = {"y": test.hard, "clean": predict(model, test)}
    facts: Record = {"n": len(test)}
    if backdoor:
        if backdoor.target >= len(test.classes):
            raise Skip(f"the target is class {backdoor.target}; {test.name} has {len(test.classes)} classes.")
        tensors["triggered"] = predict(model, test, backdoor)
        if aims := next((p for p in stage.parents if p.kind == "archetypes"), None):
            facts["archetypes"] = _share(model, backdoor.stamp_on(store.tensors(aims.key, SET)["x"]), backdoor.target)
    if notes.get("neurons"):
        distiller = "some" if _is_student(stage.parents[0]) else "none"
        facts["mechanism"] = mechanism(model, test, backdoor, notes["neurons"], distiller, every=True)
    facts["flags"] = ["off-range-trigger"] if backdoor and backdoor.as_published else []
    return facts, {"predictions.safetensors": pack(**{k: v.to(small) for k, v in tensors.items()})}


def _share(model: nn.Module, x: Tensor, target: int) -> float:
    """Of images [n,C,H,W], the share that the model calls the target."""
    with eval_mode(model), torch.no_grad():
        return float((model(x.to(next(model.parameters()).device)).argmax(1) == target).double().mean())


def _embed(stage: Stage, store: Store, device: torch.device) -> Result:
    """What enters the last linear layer, for some clean test images and for some triggered ones of other classes."""
    test = data(stage.recipe["images"]).test
    backdoor, _ = load_backdoor(stage, store)
    model = load_model(store, stage.parents[0].key).to(device)
    some = test[: stage.recipe["embed"]]
    tensors = {"y": some.hard, "clean": embedding(model, some)}
    if backdoor:
        tensors["triggered"] = embedding(model, some[some.hard != backdoor.target], backdoor)
    return {"n": len(some)}, {"embedding.safetensors": pack(**{k: v.cpu() for k, v in tensors.items()})}


DO = {
    "teacher": _teacher, "pretrain": _pretrain, "attack": _attack, "transfer": _transfer, "condense": condense,
    "archetypes": draw_archetypes, "poison": poison_set, "sift": sift, "student": _student, "victim": _victim,
    "defense": _defense, "head": _head, "detect": _detect, "choose": _choose, "predict": _predict, "embed": _embed,
}  # fmt: skip


def _is_student(stage: Stage) -> bool:
    return stage.kind == "student" or any(_is_student(parent) for parent in stage.parents)


def _accuracy(model: nn.Module, images: ImageSet) -> float:
    return float((predict(model, images) == images.hard.cpu()).float().mean())


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """JSON back to what the loop takes."""
    options = dict(options)
    if "augment" in options:
        options["augment"] = Augment(**options["augment"])
    if "milestones" in options:
        options["milestones"] = tuple(options["milestones"])
    return options


def _model(stage: Stage, model: nn.Module, images: int) -> Result:
    name = artefact_name(stage.taint)
    facts = {"taint": list(stage.taint), "key": stage.key}
    return {"spec": model.spec, "file": name, "images": images}, {name: model_bytes(model.cpu(), facts)}


def peak_memory() -> int | None:
    """Most memory that this process has held, in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)


def limit_threads(threads: int) -> None:
    """In a worker process: as many BLAS threads as its share of the processor."""
    torch.set_num_threads(threads)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
