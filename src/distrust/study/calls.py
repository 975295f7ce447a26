"""Calls written down as JSON: every option with its value, the version of what is called, the files behind it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ..allowed import FACTORY, digest_of, factories
from ..data import Views
from ..data.sources.contents import contents
from ..errors import BadInput, NotFound
from ..marks import Source
from ..measurement.backdoor import trigger_file, trigger_files
from ..models import model as make_model
from ..registry import Method, registry
from ..selectors import checked, divided, parse_one, schema
from ..training import Training, distill
from ..training.options import FIELDS
from .graph import Call
from .steps import STEPS

KNOWN = {  # the contents of public sets from which committed results were made; their keys do without
    "cifar10": "1e45a42bb80a3cbc", "cifar100_20": "a348860de1ee67f2", "gtsrb": "5603259baac27d87",
    "mnist": "80bc07f5ba988eec",
}  # fmt: skip
WEIGHTS = (".safetensors", ".pt", ".pth")
WORDS = ("photos",)  # bundled pictures
IMAGE_OPTIONS = ("size", "channels", "group")
_HINTS = typing.get_type_hints(distill)
KEYWORD = inspect.Parameter.KEYWORD_ONLY
BESIDE = {  # options of `distill` beside its training
    name: inspect.signature(distill).parameters[name].replace(annotation=_HINTS[name])
    for name in ("layers", "label_weight", "teacher_mode", "warmup")
}
BESIDE |= {  # and those of the step that calls it
    "start": inspect.Parameter("start", KEYWORD, default="own", annotation=Literal["own", "teacher"]),
    "on": inspect.Parameter("on", KEYWORD, default="images", annotation=Literal["images", "noise"]),
}
RARE = ("warmup", "start", "on")  # of these a call says nothing where a study does not, so that keys stay as they were
_BESIDE = schema("student", BESIDE)


def call_of(method: Method, given: dict[str, Any]) -> Call:
    """A call of a method with all its options; of what these name, versions of triggers and contents of files."""
    options = {name: plain(value) for name, value in method.check(given).items()}
    call = Call(method=f"{method.mark.kind}/{method.name}", version=method.version, options=options)
    if isinstance(trigger := options.get("trigger"), str):
        name = trigger.partition("[")[0].partition(":")[0]
        call["trigger"] = "file" if trigger_file(trigger) else registry.get("triggers", name).version
    texts = [v for k, v in options.items() if isinstance(v, str) and (k == "trigger" or v.endswith(".json"))]
    files = {name: content for text in texts for name, content in trigger_files(text).items()}
    files |= {name: digest_of(_file(name)) for name in factories(options)}
    if (weights := str(options.get("teacher"))).endswith(WEIGHTS):
        files[weights] = _weights(weights)
    sources = [divided(parse_one(options[k]).name)[0] for k, p in method.options.items() if p.annotation == Source]
    files |= {source: found[:16] for source in sources if source not in WORDS and (found := contents(source))}
    return Call(call, files=files) if files else call


def step_call(name: str, options: dict[str, Any]) -> Call:
    """A call of a step of the core."""
    return Call(method=name, version=str(STEPS[name].version), options=options)


def plain(value: Any) -> Any:
    """JSON-able: tuples become lists."""
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    raise BadInput(f"{value!r} cannot stand in a study; write a number, a word or a list.")


def network(name: str) -> dict[str, Any]:
    """A network as options of a step; a wrong name stops the plan. A user's file is looked at, not run."""
    if FACTORY.fullmatch(name):
        return {"network": name, "network_file": digest_of(_file(name))}
    _known(name)
    return {"network": name}


@functools.cache
def _known(name: str) -> None:
    make_model(name, classes=10)


def _weights(name: str) -> str:
    """SHA-256 of a file of weights."""
    if not Path(name).is_file():
        raise NotFound.among("file", name, map(str, Path(name).parent.glob("*")))
    with Path(name).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _file(name: str) -> str:
    """Of `FILE.py:FACTORY` the file."""
    return name.rpartition(":")[0]


def contents_of(source: str) -> dict[str, Any]:
    """What is in the files of images, or a hub's commit; nothing if it is what the name has always meant."""
    found = contents(source)
    return {} if found is None or found[:16] == KNOWN.get(source) else {"contents": found[:16]}


def options_of(make: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only options of a function with their defaults."""
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "rng"}


def views(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `Views` as JSON.

    Raises:
        NotFound: an option that there is not.
    """
    known = [field.name for field in dataclasses.fields(Views)]
    for name in given:
        if name not in known:
            raise NotFound.among("option of views", name, known)
    return dataclasses.asdict(Views(**given))


def training(axis: str, given: dict[str, Any], usual: Training | None = None) -> dict[str, Any]:
    """A `Training` as JSON, from what a study says of it; `usual` has the values of the rest.

    Raises:
        NotFound, BadInput: an option that there is not, or a value out of range; `axis` is named.
    """
    for name in given:
        if name not in FIELDS:
            raise NotFound.among(f"option of {axis}", name, FIELDS)
    try:
        return (usual or Training()).changed(**given).plain()
    except BadInput as error:
        raise BadInput(f"{axis}: {error}") from None


def given_of(axis: str, given: dict[str, Any]) -> dict[str, Any]:
    """Only what a study says of a training, as JSON; a synthetic set knows the rest."""
    return {name: value for name, value in training(axis, given).items() if name in given}


def distillation(axis: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of `distill` as JSON, those of its `Training` among them.

    Raises:
        NotFound, BadInput: as `training`.
    """
    for name in given:
        if name not in FIELDS and name not in BESIDE:
            raise NotFound.among(f"option of {axis}", name, {**FIELDS, **BESIDE})
    own = checked(_BESIDE, {name: given[name] for name in BESIDE if name in given}, "", f"{axis}: ")
    own = {name: value for name, value in own.items() if name in given or name not in RARE}
    return training(axis, {name: value for name, value in given.items() if name in FIELDS}) | own
