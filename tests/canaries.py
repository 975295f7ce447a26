"""Canaries: what every method and every part of the core computes on tiny data, recorded in canaries.json.

`python -m tests.canaries [NAME …]` records: what is new, and what has a higher version. Other values under an
unchanged version are refused: either the code goes back to what it computed, or the version is raised (`version=` in
a method's mark, `distrust.versions.CORE`). A refactoring needs neither.

A canary walks everything that a call returned. A tensor is summarised by its norm and three projections on fixed random
vectors in float64, so that a change of any element moves them; of models and images it is the change against what was
given, so that a small step does not drown in large weights. Loops take one to three small steps, so that the rounding
of another processor is not amplified.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import torch
from tests import canary_core, canary_steps
from tests.canary_inputs import CLASSES, EXACT, FIELDS, condensed, encoder, network, patch, pictures, signs, training_of
from torch import Tensor, nn

from distrust.data import ImageSet, Late
from distrust.errors import DistrustError
from distrust.flags import Flag
from distrust.marks import KINDS
from distrust.measurement import Backdoor, Finding, Seen
from distrust.registry import Method, registry
from distrust.seeds import rng, seeded
from distrust.study.steps import STEPS
from distrust.training import distill, features
from distrust.versions import CORE

FILE = Path(__file__).with_name("canaries.json")
TOLERANCE = 1e-3  # of a tensor's norm; processors differ by 2e-4. Where Adam follows signs, an entry says 1e-2
Values = dict[str, Any]  # path → a plain value, or [what it is, norm, three projections]

# --- the canaries of methods --------------------------------------------------------------------------------

SUSPECTS: dict[str, Callable[[], Any]] = {"synthetic": condensed, "encoder": encoder}
INPUTS: dict[str, Callable[[Any], Any]] = {  # parameter → what it is given, by the method's mark
    "model": lambda mark: network(),
    "teacher": lambda mark: network(),
    "encoder": lambda mark: encoder(),
    "suspect": lambda mark: SUSPECTS.get(mark.on, network)(),
    "train": lambda mark: pictures(),
    "transfer": lambda mark: pictures(),
    "clean": lambda mark: pictures("clean", 40),
    "trained_on": lambda mark: pictures(),
    "raw": lambda mark: pictures(),
    "synthetic": lambda mark: condensed(),
    "references": lambda mark: signs()[signs().y == 0][: mark.references],
    "features": lambda mark: features(encoder(), pictures()),
    "y": lambda mark: pictures().y,
    "classes": lambda mark: len(CLASSES),
}


def poisoned() -> ImageSet:
    """A set in which every third image has a white corner."""
    images = pictures()
    x = images.x.clone()
    x[::3, :, -3:, -3:] = 255
    return images.replace(x=x)


def seen(name: str) -> Seen:
    """Answers of which two in three are right, and one in three is the target's under the trigger."""
    y, draw = torch.arange(60) % len(CLASSES), rng("seen", name)
    wrong, told = torch.rand(2, 60, generator=draw) < 1 / 3
    return Seen(y, torch.where(wrong, (y + 1) % len(CLASSES), y), torch.where(told, 1, y))


MEASURED: dict[str, Callable[[], Any]] = {  # what metrics are given, by name
    **{name: functools.partial(seen, name) for name in ("seen", "control", "undefended", "teacher", "teacher_control")},
    **{name: functools.partial(network, seed=name) for name in ("model", "control_model", "teacher_model")},
    **{name: pictures for name in ("test", "train", "clean", "before")},
    **{name: poisoned for name in ("poisoned", "suspect")},
    "finding": lambda: Finding.of("random", torch.tensor([0.1, 0.7, 0.3, 0.2]), p=0.25),
    "finding_control": lambda: Finding.of("random", torch.tensor([0.3, 0.2, 0.4, 0.1]), p=0.5),
    "cleaned": lambda: poisoned()[1:40], "records": lambda: [{"seconds": 1.25}, {"seconds": 2.5}],
    "target": lambda: 1, "backdoor": patch, "neurons": lambda: {"bn1": [1, 3]}, "distiller": lambda: "none",
    "carried": lambda: 0.25, "teacher_carried": lambda: 0.75, "images": lambda: "digits", "attack": lambda: "none",
    "condenser": lambda: "none", "encoder": lambda: "none",
}  # fmt: skip


def measured(method: Method) -> tuple[Any, ...]:
    """What a metric is given; products that are made for it are drawn with few steps."""
    few = {"net_steps": 2, "archetype_steps": 2, "archetypes_per_class": 6, "network": "convnet2-w4"}
    own = {name: make(pictures(), **few, rng=rng(name)) for name, make in method.mark.makes.items()}
    return tuple(own[name] if name in own else MEASURED[name]() for name in method.inputs)


# Options that make a method quick, and let it decide something: by name, or by how the name ends.
SMALL: dict[str, Any] = {
    "epochs": 1, "mine_epochs": 4, "steps": 2, "iterations": 2, "outer": 2, "inner": 1, "experts": 1, "span": 1,
    "max_start": 1, "networks": 1, "permutations": 2, "images": 8, "batch_size": 16, "batch": 8, "batch_real": 4,
    "size": 3, "inset": 2, "k": 3, "patience": 1, "success": 0.0, "u": 1.0,
    "network": "convnet2-w8", "surrogate": "convnet2-w8", "trigger": "patch:white:3", **EXACT,
}  # fmt: skip
LARGE = {  # where little is nothing: masks that a few small steps hardly move, a share of a few images
    "threshold": 0.999, "isolate": 0.2,
}  # fmt: skip
KINKED = {"prune"}  # it counts on a ReLU at 0, which passes no gradient on


def small(method: Method) -> dict[str, Any]:
    """The method's options at their smallest, the rest at their defaults."""
    chosen = {}
    for name, option in method.options.items():
        value = SMALL.get(name, SMALL.get(name.rpartition("_")[2]))
        default = option.default
        if isinstance(value, str):
            if name != "trigger" or str(default).startswith("patch"):
                chosen[name] = value
        elif value is not None and (default is None or (isinstance(default, int | float) and default > value)):
            chosen[name] = value
    return chosen | {name: value for name, value in LARGE.items() if name in method.options}


def variants(method: Method) -> dict[str, dict[str, Any]]:
    """Every other word of an option, the other truth of each switch, and 1 where the default is 0."""
    found = {}
    for name, option in method.options.items():
        hint, default = option.annotation, option.default
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        words: list[Any] = []
        if name in EXACT or (name in FIELDS and default != 0):
            continue  # the loop's own canary has them
        if get_origin(hint) is Literal:
            words = [word for word in get_args(hint) if word != default]
        elif isinstance(default, bool):
            words = [not default]
        elif isinstance(default, int | float) and default == 0:
            words = [1]
        found |= {f"with {name}={word}": {name: word} for word in words}
    return found


# --- what a canary remembers --------------------------------------------------------------------------------

PERIOD = 4099


@functools.cache
def _directions(name: str, n: int) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal((3, n))


def projections(values: Tensor) -> list[float]:
    """The norm, and three projections on fixed random vectors (of long tensors: products of two)."""
    x = values.detach().cpu().double().flatten().numpy()
    rows = -(-len(x) // PERIOD)
    x = np.pad(x, (0, rows * PERIOD - len(x))).reshape(rows, PERIOD)
    within, across = _directions("within", PERIOD), _directions("across", max(rows, 16))[:, :rows]
    return [float(np.linalg.norm(x)), *map(float, ((x @ within.T) * across.T).sum(0))]


def _numbers(what: str, values: Tensor) -> list[Any]:
    return [what, *(float(f"{v:.9g}") for v in projections(values))]


def _tensor(value: Tensor, before: Tensor | None = None) -> list[Any]:
    what = f"{str(value.dtype).removeprefix('torch.')} {'×'.join(map(str, value.shape))}".strip()
    changed = before is not None and before.shape == value.shape
    return _numbers(what, value.double() - before.double() if changed else value)  # type: ignore[union-attr]


def _module(value: nn.Module, given: Iterable[Any]) -> Values:
    """Parameters and buffers, by the model's parts; the change, where one like it was given."""
    state = value.state_dict()
    shapes = {k: v.shape for k, v in state.items()}
    starts = (g.state_dict() for g in given if isinstance(g, nn.Module))
    start = next((s for s in starts if {k: v.shape for k, v in s.items()} == shapes), None)
    names = " ".join(f"{k}:{v.dtype}:{tuple(v.shape)}" for k, v in state.items())
    parts: dict[str, list[Tensor]] = {}
    trained = dict(value.named_parameters())
    for name, tensor in state.items():
        kind = "weights" if name in trained else "buffers" if tensor.is_floating_point() else "counts"
        change = tensor.double() if start is None else tensor.double() - start[name].double()
        parts.setdefault(f"{name.partition('.')[0]} {kind}", []).append(change.flatten())
    whole = {part: _numbers(f"{sum(map(len, v))} numbers", torch.cat(v)) for part, v in parts.items()}
    return {"layout": f"{len(state)} tensors, {zlib.crc32(names.encode()):08x}", **whole}


def summary(value: Any, given: Iterable[Any] = (), path: str = "") -> Values:
    """Everything in `value`, flat; `given` is what the call got.

    Raises:
        TypeError: something that a canary cannot look into.
    """
    given = list(given)
    if isinstance(value, Tensor):
        return {path: _tensor(value)}
    if isinstance(value, Backdoor):
        facts = {k: getattr(value, k) for k in ("target", "rule", "stamp", "name", "as_published")}
        shown = pictures("probe", 4).pixels()
        return {**summary(facts, path=path), f"{path}.trigger": _tensor(value.trigger(shown), shown)}
    if isinstance(value, nn.Module):
        return {f"{path}.{k}".lstrip("."): v for k, v in _module(value, given).items()}
    if isinstance(value, ImageSet):
        before = next((g for g in given if isinstance(g, ImageSet)), None)
        facts = {k: getattr(value, k) for k in ("classes", "name", "taint", "off_range", "index", "group", "late", "y")}
        facts["training"] = None if value.training is None else training_of(value.training)
        return {f"{path}.x".lstrip("."): _tensor(value.x, before and before.x), **summary(facts, path=path)}
    if isinstance(value, Late):
        return summary({"rows": value.rows, "trigger": Backdoor(value.trigger, 0)}, path=path)
    if isinstance(value, Finding):
        return summary(value.record(), path=path)
    if isinstance(value, np.ndarray):
        return {path: _tensor(torch.from_numpy(value))}
    if isinstance(value, str | bool | int | None):
        return {path: value}
    if isinstance(value, float):
        return {path: float(f"{value:.9g}")}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        if value and all(isinstance(v, float) for v in value):
            return {path: _tensor(torch.tensor(value, dtype=torch.float64))}
        if all(isinstance(v, str | int | None) for v in value):
            return {path: [*value]}
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        found = {}
        for key, inner in value.items():
            found |= summary(inner, given, f"{path}.{key}".lstrip("."))
        return found
    raise TypeError(f"{path or 'the result'} is a {type(value).__name__}, which tests/canaries.py cannot summarise.")


def folded(values: Values) -> list[Any]:
    """All values as one, where it need not be known which moved: a tensor counts by its direction and its size."""
    exact = {k: v for k, v in values.items() if not (_is_tensor(v) or isinstance(v, float))}
    total, count = np.zeros(3), 0
    for path, value in sorted(values.items()):
        if path not in exact:
            norm, *seen = value[1:] if _is_tensor(value) else (abs(value), 0.0, 0.0, value)
            size = max(norm, 1e-4)
            total += np.array(seen) / size + math.log(size) * _directions(path, 1)[:, 0]
            count += 1
    what = f"{len(values)} values, {zlib.crc32(json.dumps(exact, sort_keys=True, default=str).encode()):08x}"
    return [what, float(f"{math.sqrt(count):.9g}"), *(float(f"{v:.9g}") for v in total)]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 5 and isinstance(value[0], str) and isinstance(value[1], float)


def differences(got: Values, want: Values, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Path → by how much it differs, as a share of the norm where there is one; without what agrees."""
    found = {path: math.inf for path in want.keys() - got.keys()}
    new = got.keys() - want.keys()
    found |= {path: math.inf for path in new if not path.startswith(("options.", "with "))}  # an option may come along
    for path in want.keys() & got.keys():
        share = _difference(got[path], want[path])
        if not share <= tolerance:
            found[path] = share
    return found


def _difference(got: Any, want: Any) -> float:
    if _is_tensor(want):
        if not _is_tensor(got) or got[0] != want[0]:
            return math.inf
        scale = max(want[1], 1e-6)
        return max(abs(g - w) for g, w in zip(got[1:], want[1:], strict=True)) / scale
    if isinstance(want, float) and isinstance(got, float):
        return abs(got - want) / max(abs(want), 1e-6)
    return 0.0 if got == want else math.inf


# --- the canaries of methods --------------------------------------------------------------------------------


def of_method(method: Method, changes: Mapping[str, Any]) -> Any:
    """What a method computes, and what it was given."""
    mark, made = method.mark, method.made(method.check(small(method) | dict(changes)))
    if mark.kind == "triggers":
        shown = {"colour": pictures("probe", 4).pixels(), "grey": pictures("probe", 4, shape=(1, 12, 10)).pixels()}
        return {name: made(x) - x for name, x in shown.items()}, ()
    if mark.kind == "objectives":
        with seeded(rng("objective")):
            made.bind(6)
        one, two = torch.randn(2, 8, 6, generator=rng("features"), dtype=torch.float32).requires_grad_().unbind(0)
        value = made(one, two)
        return {"loss": value, "gradients": torch.autograd.grad(value, [one, two])}, ()
    if mark.kind == "distillers":
        given = network(seed="student"), network(seed="teacher"), pictures(n=32)
        options = {"epochs": 2, "batch_size": 16, "lr": 0.01, "schedule": "constant", **EXACT}
        return distill(*given, loss=made, rng=rng("distill"), **options), given
    if mark.kind == "metrics":
        return made(*measured(method)), ()
    given = tuple(INPUTS[name](mark) for name in method.inputs)
    if method.name in KINKED:
        given = (network("wrn10-1", head=False), *given[1:])
    random = {"rng": rng("method")} if "rng" in inspect.signature(method.call).parameters else {}
    return made(*given, **random), given


def canary(method: Method, more: bool = True) -> Values:
    """Everything that a method computes on tiny data, its default options and flags, and, with `more`, its variants."""
    values = _recorded(functools.partial(of_method, method, {}))
    values |= summary(_plain(method.check({})), path="options")
    for name, changes in variants(method).items() if more else ():
        with suppress(DistrustError):  # an option that does not go with these inputs
            values[name] = folded(_recorded(functools.partial(of_method, method, changes)))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value if isinstance(value, str | int | float | None) else str(value)


def _recorded(call: Callable[[], Any]) -> Values:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made, given = call()
    flags = sorted({w.message.name for w in caught if isinstance(w.message, Flag)})
    return {**summary(made, given), "flags": flags}


# --- the record ---------------------------------------------------------------------------------------------


def versions() -> dict[str, int]:
    """Every canary that there has to be → its version now."""
    core = {f"core/{name}": version for name, version in CORE.items()}
    core |= {f"steps/{name}": step.version for name, step in STEPS.items()}
    own = {f"{kind}/{name}": m.mark.version for kind in KINDS for name, m in registry.kind(kind).items()}
    return core | own


def of_core(kind: str, name: str) -> Any:
    """What a part of the core, or a step of studies, computes, and what it was given."""
    made = getattr({"core": canary_core, "steps": canary_steps}[kind], f"of_{name}")()
    return made if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], tuple) else (made, ())


def compute(name: str) -> Values:
    """What the canary says now."""
    torch.set_num_threads(1)
    kind, _, own = name.partition("/")
    core = kind in ("core", "steps")
    found = _recorded(functools.partial(of_core, kind, own)) if core else canary(registry.get(kind, own))
    return json.loads(json.dumps(found, allow_nan=False))


def load() -> dict[str, Any]:
    """Name → version, core (the sum of the core's versions), values, and perhaps a tolerance of its own."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def complaint(name: str, version: int, values: Values, entry: Mapping[str, Any] | None) -> str | None:
    """What is wrong with a canary, and what to do; None if it agrees with its entry."""
    word = name.rpartition("/")[2]
    places = {"core": f"CORE[{word!r}] in distrust/versions.py", "steps": "version= in distrust/study/steps.py"}
    where = places.get(name.partition("/")[0], "version= in its mark")
    record = f"`python -m tests.canaries {name}`"
    if entry is None:
        return f"{name} has no canary: run {record}."
    if version < entry["version"]:
        return f"{word} was version {entry['version']} and is {version} now; versions only rise. Raise {where}."
    other = differences(values, entry["values"], entry.get("tolerance", TOLERANCE))
    if version > entry["version"]:
        return f"{word} is version {version}, its canary {entry['version']}: run {record}."
    if not other:
        return None
    most = sorted(other.items(), key=lambda item: -item[1])[:3]
    worst = ", ".join(f"{path or 'result'} by {share:.1e}" for path, share in most)
    if entry["core"] != sum(CORE.values()):
        return f"{word} computes something else since the core has another version ({worst}): run {record}."
    what = f"{word} computes something else than version {version} did ({worst})"
    return f"{what}: put it back, or raise {where} and run {record}."


def save(entries: Mapping[str, Any]) -> None:
    """Write the file: a line for each value."""
    text = json.dumps({name: entries[name] for name in sorted(entries)}, indent=1, ensure_ascii=False)
    text = re.sub(
        r"\[[^][{}]*\]", lambda found: re.sub(r"\n\s*", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    FILE.write_text(text + "\n")


def record(names: Iterable[str] = ()) -> list[str]:
    """Record the canaries of these names (default: all) and forget what is no more; returns what was refused."""
    entries, now, names = load(), versions(), list(names)
    refused = [f"{a} is no method and no part of the core." for a in names if not any(_is(a, n) for n in now)]
    for name in [n for n in now if not names or any(_is(a, n) for a in names)]:
        values, entry = compute(name), entries.get(name)
        found = complaint(name, now[name], values, entry)
        if entry and found and now[name] <= entry["version"] and entry["core"] == sum(CORE.values()):
            refused.append(found)
            continue
        if found is None and differences(values, entry["values"], 0) and not values.keys() - entry["values"].keys():
            values = entry["values"]  # another processor's last digits are no news
        kept = {"tolerance": entry["tolerance"]} if entry and "tolerance" in entry else {}
        entries[name] = {"version": now[name], "core": sum(CORE.values()), **kept, "values": values}
    save({name: entry for name, entry in entries.items() if name in now})
    return refused


def _is(asked: str, name: str) -> bool:
    return name == asked or name.endswith(f"/{asked}")


if __name__ == "__main__":
    wrong = record(sys.argv[1:])
    print("\n".join(wrong) or f"recorded in {FILE.name}")
    sys.exit(bool(wrong))
