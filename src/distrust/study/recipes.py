"""Recipes: a call written down as JSON: every option with its value, and hashes of the code and files behind it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import typing
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import BadInput, NotFound
from ..measurement.backdoor import trigger_files
from ..models import model as make_model
from ..registry import Method, registry
from ..training import Training

Recipe = dict[str, Any]
CALLED = ("rng", "device", "training")  # arguments of `distill` that no study file names


def passes_of(options: Recipe) -> float:
    """How often a method shows each image to a training step, as its options tell."""
    return float(sum(v for k, v in options.items() if k.endswith("epochs")))


def digest(value: Any) -> str:
    """SHA-256 of anything that JSON can hold; the order of entries does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def files_of(option: Any, kind: str) -> dict[str, str]:
    """Hashes of the files that an attack's option names."""
    return trigger_files(option) if kind == "attacks" and isinstance(option, str) and _is_trigger(option) else {}


def _is_trigger(text: str) -> bool:
    return text.endswith(".json") or text.partition("[")[0].partition(":")[0] in registry.kind("triggers")


def trigger_version(text: str) -> str:
    """Version of the trigger that a selector names."""
    if text.endswith(".json"):
        return "file"
    method: Method = registry.get("triggers", text.partition("[")[0].partition(":")[0])
    return method.version


def plain(value: Any) -> Any:
    """JSON-able: tuples become lists."""
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    raise BadInput(f"{value!r} cannot stand in a study; write a number, a word or a list.")


@functools.cache
def model_of(name: str) -> Recipe:
    """A model's part of a recipe; a wrong name stops the plan. A user's file is looked at, not run."""
    file, _, factory = name.rpartition(":")
    if not file.endswith(".py"):
        make_model(name, classes=10)
        return {"model": name}
    if not Path(file).is_file():
        raise NotFound(f"no file {file} for model {name}. Give the path of a Python file that defines {factory}.")
    return {"model": name, "model_file": hashlib.sha256(Path(file).read_bytes()).hexdigest()}


@functools.cache
def contents_of(source: str) -> Recipe:
    """Of images given by path, what tells one state from another; a name or the hub says so itself."""
    path = Path(source)
    if not path.exists():
        return {}
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    state = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return {"contents": digest(state)[:16]}


def resolved(axis: str, given: dict[str, Any], *takers: Any) -> Recipe:
    """Every field of `Training`, and every option of `takers` beside it, with its value."""
    own = {
        name: p.default
        for taker in takers
        for name, p in inspect.signature(taker).parameters.items()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty and name not in CALLED
    }
    own.pop("warmup", None)  # stands in a recipe only where a distiller has two stages
    fields = {field.name for field in dataclasses.fields(Training)}
    for name in given:
        if name not in fields | {*own, "warmup"}:
            raise NotFound.among(f"option of {axis}", name, fields | {*own})
    hints = {k: v for taker in takers for k, v in typing.get_type_hints(taker).items()}
    for name, value in given.items():
        try:
            if name not in fields:
                own[name] = TypeAdapter(hints.get(name, Any)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise BadInput(f"{axis}: {name}={value!r}: {reason[:1].lower()}{reason[1:]}.") from None
    try:
        training = Training.of({k: v for k, v in given.items() if k in fields})
    except (BadInput, NotFound) as error:
        raise BadInput(f"{axis}: {error}") from None
    return {**training.plain(), **own}
