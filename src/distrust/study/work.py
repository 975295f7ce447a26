"""Work: carry out one stage. Everything it needs is in the stage and the store, so any process can do it."""

from __future__ import annotations

import functools
import inspect
import platform
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ..data import ImageSet
from ..errors import Skip, StoreError
from ..flags import Flag, flag
from ..registry import registry
from ..seeds import rng
from .codecs import dump, parts_of, undump
from .graph import Stage
from .steps import STEPS
from .store import Record, Store

STREAMS = {"attacks": "attack", "condensers": "condense", "defenses": "defense", "detectors": "detect"}


def work(stage: Stage, url: str, device: str | None = None) -> Record:
    """Run a stage, write it into the store, and return its record.

    A method's `Skip`, and any error in the stage, become records with state "skipped" or "failed"; only a store
    that cannot be written raises.
    """
    store = Store(url)
    start = time.perf_counter()
    record: Record = {
        "state": "done", "kind": stage.kind, "label": stage.label, "recipe": recipe_of(stage),
        "parents": [p.key for p in stage.parents], "taint": list(stage.taint), "flags": [],
    }  # fmt: skip
    files: dict[str, bytes] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            made = carry_out(stage, store, torch.device(device or "cpu"))
            facts, files = dump(made, stage, lambda name: product(stage.inputs[name], store, name))
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


def recipe_of(stage: Stage) -> dict[str, Any]:
    """A stage as a record shows it: its call, the calls of inputs that are not stored, and its seed."""
    made = {name: recipe_of(source) for name, source in stage.inputs.items() if not source.kept}
    return {**stage.call, "seed": stage.seed, **({"inputs": made} if made else {})}


def product(stage: Stage, store: Store, name: str = "") -> Any:
    """What a stage made, or of several things the one that a parameter of this name asks for.

    Raises:
        StoreError: the store does not have it, or it is damaged.
    """
    parts = _stored(stage, store) if stage.kept else parts_of(carry_out(stage, store, torch.device("cpu")))
    return parts.get(name, parts[""])


def _stored(stage: Stage, store: Store) -> Mapping[str, Any]:
    record = store.record(stage.key)
    if record is None or record["state"] != "done":
        raise StoreError(f"stage {stage.key} has nothing in {store.url}. Run the study again.")
    read, fetch = functools.partial(store.read, stage.key), lambda name: product(stage.inputs[name], store, name)
    try:
        return undump(record, stage, read, fetch)
    except SafetensorError as error:
        raise store.damaged(stage.key, error) from None


def carry_out(stage: Stage, store: Store, device: torch.device) -> Any:
    """Bind a stage's inputs by parameter name and call it."""
    given = {name: _given(name, source, stage, store) for name, source in stage.inputs.items()}
    alone = stage.kept and not any(isinstance(value, nn.Module) for value in given.values())
    for name, value in given.items():
        if isinstance(value, nn.Module) or (alone and isinstance(value, ImageSet)):
            given[name] = value.to(device)
    kind, sign, name = stage.call["method"].partition("/")
    options = stage.call["options"]
    if not sign:
        return _step(kind, given, options, stage.seed, device)
    name, made, product_name = name.partition(":")
    method = registry.get(kind, name)
    clean = given.get("clean") if kind == "defenses" and method.mark.on == "classifier" else None
    if clean is not None and len(clean.hard.unique()) < len(clean.classes):
        flag("class-missing")
    call = functools.partial(method.mark.makes[product_name], **options) if made else method.made(options)
    if "rng" in inspect.signature(call).parameters:
        given["rng"] = rng(STREAMS.get(kind, "attack"), stage.seed)
    return call(**given)


def _given(name: str, source: Stage, stage: Stage, store: Store) -> Any:
    record = store.record(source.key) if source.kept else None
    if source.key in stage.spare and record and record["state"] != "done":
        return None
    return product(source, store, name)


def _step(name: str, given: dict[str, Any], options: dict[str, Any], seed: int, device: torch.device) -> Any:
    """A step of the core: methods among its options are made, and it gets the seed and the device if it asks."""
    call, beside = STEPS[name].call, {"seed": seed, "device": device}
    given |= {key: _made(value) for key, value in options.items() if key != "network_file"}
    return call(**given, **{key: beside[key] for key in beside.keys() & inspect.signature(call).parameters.keys()})


def _made(value: Any) -> Any:
    if isinstance(value, dict) and "method" in value:
        kind, _, name = value["method"].partition("/")
        return registry.get(kind, name).made(value["options"])
    return value


def environment() -> dict[str, Any]:
    """Where a number was made; recorded, never part of a key."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": platform.machine(), "peak_mb": peak_memory(),
    }  # fmt: skip


def peak_memory() -> int | None:
    """Most memory that this process has held, in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)
