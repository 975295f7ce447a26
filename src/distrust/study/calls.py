"""Calls written down as JSON: every option with its value, the version of what is called, the files behind it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import typing
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..data import PLAIN, Views
from ..errors import BadInput, NotFound
from ..measurement.backdoor import trigger_files
from ..models import model as make_model
from ..registry import Method, registry
from ..training import distill, loop
from .graph import Call, digest
from .steps import STEPS

IMAGE_OPTIONS = ("size", "channels", "group")


def call_of(method: Method, given: dict[str, Any]) -> Call:
    """A call of a method with all its options; of a trigger that one of them names, its version and files."""
    options = {name: plain(value) for name, value in method.check(given).items()}
    call: Call = {"method": f"{method.mark.kind}/{method.name}", "version": method.version, "options": options}
    if isinstance(trigger := options.get("trigger"), str):
        call["trigger"] = _trigger_version(trigger)
    texts = [v for k, v in options.items() if isinstance(v, str) and (k == "trigger" or v.endswith(".json"))]
    files = {name: content for text in texts for name, content in trigger_files(text).items()}
    return {**call, "files": files} if files else call


def step_call(name: str, options: dict[str, Any]) -> Call:
    """A call of a step of the core."""
    return {"method": name, "version": str(STEPS[name].version), "options": options}


def _trigger_version(text: str) -> str:
    return (
        "file" if text.endswith(".json") else registry.get("triggers", text.partition("[")[0].partition(":")[0]).version
    )


def plain(value: Any) -> Any:
    """JSON-able: tuples become lists."""
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    raise BadInput(f"{value!r} cannot stand in a study; write a number, a word or a list.")


@functools.cache
def network(name: str) -> dict[str, Any]:
    """A network as options of a step; a wrong name stops the plan. A user's file is looked at, not run."""
    file, _, factory = name.rpartition(":")
    if not file.endswith(".py"):
        make_model(name, classes=10)
        return {"network": name}
    if not Path(file).is_file():
        raise NotFound(f"no file {file} for model {name}. Give the path of a Python file that defines {factory}.")
    return {"network": name, "network_file": hashlib.sha256(Path(file).read_bytes()).hexdigest()}


@functools.cache
def contents_of(source: str) -> dict[str, Any]:
    """Of images given by path, what tells one state from another; a name or the hub says so itself."""
    path = Path(source)
    if not path.exists():
        return {}
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    state = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return {"contents": digest(state)[:16]}


def views(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `Views` as JSON."""
    return dataclasses.asdict(Views(**given))


CALLED = ("rng", "device", "extra", "beside", "monitor")  # arguments of the loop that no study file names


def training(axis: str, given: dict[str, Any], *, distilled: bool = False, whole: bool = True) -> dict[str, Any]:
    """Options of the loop with their values; what only concerns the machine counts if it is asked for."""
    defaults = {
        name: p.default
        for taker in (loop, distill)[: 1 + distilled]
        for name, p in inspect.signature(taker).parameters.items()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty and name not in CALLED
    }
    defaults.pop("warmup", None)  # stands in a recipe only where a distiller has two stages
    for name in given:
        if name not in defaults and name != "warmup":
            raise NotFound.among(f"option of {axis}", name, defaults)
    hints = {k: v for taker in (loop, distill) for k, v in typing.get_type_hints(taker).items()}
    for name, value in given.items():
        try:
            value = PLAIN if name == "augment" and value == "none" else value
            defaults[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise BadInput(f"{axis}: {name}={value!r}: {reason[:1].lower()}{reason[1:]}.") from None
    options = {k: v for k, v in defaults.items() if k in given or k not in ("precision", "memory_format")}
    plain_ = {**options, "augment": dataclasses.asdict(options["augment"]), "milestones": list(options["milestones"])}
    return plain_ if whole else {k: v for k, v in plain_.items() if k in given}
