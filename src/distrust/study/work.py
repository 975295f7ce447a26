"""Work: carry out one stage. Everything it needs is in the stage and the store, so any process can do it."""

from __future__ import annotations

import functools
import inspect
import math
import platform
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..allowed import Files as Code
from ..allowed import code_from
from ..data import ImageSet
from ..errors import NotFound, Skip, StoreError, UnsafeFile
from ..flags import Flag, flag
from ..measurement import Backdoor
from ..registry import registry
from ..seeds import rng
from ..training import watching
from .codecs import dump, parts_of, undump
from .graph import Stage, digest
from .records import Damaged, Files, Record
from .steps import STEPS
from .store import Store

PAUSE, LONGEST = 0.02, 1.0  # seconds between looks at what others do, at first and in the end
STREAMS = {"attacks": "attack", "condensers": "condense", "defenses": "defense", "detectors": "detect"}


class Found(dict[str, Any]):
    """The record of a stage that somebody else has made."""


def work(
    stages: Sequence[Stage],
    url: str,
    device: str | None = None,
    replace: bool = False,
    code: Code = (),
    again: bool = False,
    patience: float = math.inf,
) -> list[Record | None]:
    """Run a stage, or several that may be carried out `together`; write them into the store, and return their records.

    A method's `Skip`, and any error in a stage, become its record with state "skipped" or "failed"; only a store
    that cannot be written raises, and a stage there that cannot be used. A stage that somebody else is at is waited
    for. Whoever has written one meanwhile has made it.

    Args:
        stages: to be run.
        url: of the store.
        device: torch device of the work.
        replace: what is done there is made again.
        code: files of code that may be run where options or records name them.
        again: what failed or was skipped there is made again.
        patience: seconds to wait for others; of a stage that is not done then, None is returned.
    """
    store, records, others = Store(url), dict[str, Record](), set[str]()
    pause, end = PAUSE, time.monotonic() + patience
    with code_from(code):
        while True:
            left = [stage for stage in stages if stage.key not in records]
            with store.leased(stage.key for stage in left) as ours:
                for key in ours:
                    there = store.standing(key) if key in others or not replace else None
                    if there and (key in others or there["state"] == "done" or not again):
                        records[key] = Found(there)
                mine = [stage for stage in left if stage.key in ours and stage.key not in records]
                records |= zip((s.key for s in mine), _work(mine, store, device, replace) if mine else (), strict=True)
            others |= {stage.key for stage in left} - set(ours)
            if len(records) == len(stages) or time.monotonic() >= end:
                return [records.get(stage.key) for stage in stages]
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)


def _work(stages: Sequence[Stage], store: Store, device: str | None, replace: bool) -> list[Record]:
    place = torch.device(device or "cpu")
    start = time.perf_counter()
    tries = [_Try(stage) for stage in stages]
    if len(tries) == 1:
        with tries[0].on():
            tries[0].made = carry_out(stages[0], store, place)
    else:
        _in_turns(tries, store, place)
    for one in tries:
        with one.on():
            one.dump(store)
    seconds = round((time.perf_counter() - start) / len(tries), 3)
    for one in tries:
        one.record |= {"env": environment(), "seconds": seconds}
    return [store.save(one.stage.key, one.record, one.files, replace) for one in tries]


class _Try:
    """One stage on its way into the store: what it made, its record, its files."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.made, self.files = stage, None, Files()
        self.record: Record = {"state": "done", **described(stage), "flags": []}

    @property
    def going(self) -> bool:
        """Whether nothing has gone wrong yet."""
        return self.record["state"] == "done"

    @contextmanager
    def on(self) -> Iterator[None]:
        """What is raised inside, an error or a flag, goes into this stage's record."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            except StoreError:
                raise
            except Skip as reason:
                self.record |= {"state": "skipped", "error": f"Skip: {reason}", "flags": ["skipped"]}
            except (Exception, SystemExit) as error:  # a plug-in may raise anything, sys.exit() too; the grid goes on
                if _told_to_end(error):
                    raise
                self.record |= {"state": "failed", "error": f"{type(error).__name__}: {error}"}
        raised = [w.message.name for w in caught if isinstance(w.message, Flag)]
        self.record["flags"] = list(dict.fromkeys([*self.record["flags"], *raised]))

    def dump(self, store: Store) -> None:
        """Turn what was made into facts and files."""
        if self.going:
            facts, self.files = dump(self.made, self.stage, lambda name: product(self.stage.inputs[name], store, name))
            self.record |= facts


def _told_to_end(error: BaseException) -> bool:
    """It is this process that was asked to end, as Ray does on a node that goes: no fault of the method's."""
    code = getattr(signal.getsignal(signal.SIGTERM), "__code__", None)
    return code is not None and any(frame.f_code is code for frame, _ in traceback.walk_tb(error.__traceback__))


def given_up(stage: Stage, store: Store, seconds: float, replace: bool = False) -> Record:
    """The record of a stage that was ended as it was not done in so many seconds; it is written."""
    store.sweep()
    record: Record = {
        "state": "failed", **described(stage), "flags": [], "env": environment(), "seconds": seconds,
        "error": f"Timeout: it was not done in {seconds:g} s, and its process was ended.",
    }  # fmt: skip
    return store.save(stage.key, record, Files(), replace)


def together(stage: Stage) -> str | None:
    """What stages have in common that may be carried out at once, sharing work; None for a stage by itself."""
    step = STEPS.get(stage.call["method"])
    if step and step.together:
        return digest([stage.call["method"], {name: made.key for name, made in stage.inputs.items()}, stage.seed])
    return None


def _in_turns(tries: Sequence[_Try], store: Store, device: torch.device) -> None:
    """Carry out stages of the same inputs a step each at a time; one that fails leaves the others alone."""
    first = tries[0].stage
    step = STEPS[first.call["method"]]
    assert step.together is not None
    start, runs = None, {}
    for one in tries:
        with one.on():
            start = start or step.together(**_inputs(first, store, device))
            runs[one] = start(**_options(start, one.stage, device))
            with watching(_unseen) if one is not tries[0] else nullcontext():  # progress is told of the first
                next(runs[one])
    while runs := {one: run for one, run in runs.items() if one.going and one.made is None}:
        for one, run in runs.items():
            with one.on():
                try:
                    next(run)
                except StopIteration as end:
                    one.made = end.value


def _unseen(step: int, steps: int, loss: float) -> None:
    """Tells nobody."""


def described(stage: Stage) -> Record:
    """What a record says of a stage before it is carried out."""
    return {
        "kind": stage.kind, "label": stage.label, "recipe": recipe_of(stage),
        "parents": [p.key for p in stage.parents], "taint": list(stage.taint),
    }  # fmt: skip


def recipe_of(stage: Stage) -> dict[str, Any]:
    """A stage as a record shows it: its call, the calls of inputs that are not stored, and its seed."""
    made = {name: recipe_of(source) for name, source in stage.inputs.items() if not source.kept}
    return {**stage.call, "seed": stage.seed, **({"inputs": made} if made else {})}


def product(stage: Stage, store: Store, name: str = "") -> Any:
    """What a stage made, or of several things the one that a parameter of this name asks for.

    Raises:
        Damaged: the store does not have it whole.
    """
    if stage.kept:
        parts = _stored(stage, store)
    else:
        planted = _planted(stage.key)
        if name in planted:
            return planted[name]
        parts = parts_of(carry_out(stage, store, torch.device("cpu")))
        planted |= {part: value for part, value in parts.items() if isinstance(value, Backdoor)}
    return parts.get(name, parts[""])


@functools.lru_cache(256)
def _planted(key: str) -> dict[str, Backdoor]:
    """Who was planted by an attack that is made again where it is read: a prediction asks for that alone."""
    return {}


def _stored(stage: Stage, store: Store) -> Mapping[str, Any]:
    record, files = store.load(stage.key)
    if record["state"] != "done":
        raise Damaged(stage.key, "it has made nothing")
    try:
        return undump(record, stage, files.__getitem__, lambda name: product(stage.inputs[name], store, name))
    except (Damaged, NotFound, UnsafeFile):
        raise
    except Exception as error:
        if "files" in record:
            raise
        raise Damaged(stage.key, f"it cannot be read ({error})") from None  # of an earlier version, without checksums


def carry_out(stage: Stage, store: Store, device: torch.device) -> Any:
    """Bind a stage's inputs by parameter name and call it."""
    given = _inputs(stage, store, device)
    with code_from():
        return _called(stage, given, device)


def _called(stage: Stage, given: dict[str, Any], device: torch.device) -> Any:
    kind, sign, name = stage.call["method"].partition("/")
    options = stage.call["options"]
    if not sign:
        call = STEPS[kind].call
        return call(**given, **_options(call, stage, device))
    name, made, product_name = name.partition(":")
    method = registry.get(kind, name)
    clean = given.get("clean") if kind == "defenses" and method.mark.on == "classifier" else None
    if clean is not None and len(clean.hard.unique()) < len(clean.classes):
        flag("class-missing")
    call = functools.partial(method.mark.makes[product_name], **options) if made else method.made(options)
    if "rng" in inspect.signature(call).parameters:
        own = (stage.inputs["suspect"].key,) if kind == "detectors" else ()  # else all suspects of a seed share luck
        given["rng"] = rng(STREAMS.get(kind, "attack"), stage.seed, *own)
    return call(**given)


def _inputs(stage: Stage, store: Store, device: torch.device) -> dict[str, Any]:
    """Products by parameter name; models are on the device, and images where no model says where."""
    given = {name: _given(name, source, stage, store) for name, source in stage.inputs.items()}
    alone = stage.kept and not any(isinstance(value, nn.Module) for value in given.values())
    for name, value in given.items():
        if isinstance(value, nn.Module) or (alone and isinstance(value, ImageSet)):
            given[name] = value.to(device)
    return given


def _given(name: str, source: Stage, stage: Stage, store: Store) -> Any:
    record = store.record(source.key) if source.kept else None
    if source.key in stage.spare and record and record["state"] != "done":
        return None
    if record and "spec" in record and record["state"] == "done" and stage.call["method"] in STEPS:
        parts = _looked_at(source, store.url)
        return parts.get(name, parts[""])
    return product(source, store, name)


@functools.lru_cache(4)
def _looked_at(stage: Stage, url: str) -> Mapping[str, Any]:
    """The last models that the core's own steps asked for; none of these changes what it is given."""
    return _stored(stage, Store(url))


def _options(call: Callable[..., Any], stage: Stage, device: torch.device) -> dict[str, Any]:
    """Options of a step of the core: methods among them are made, and it gets the seed and the device if it asks."""
    beside = {"seed": stage.seed, "device": device}
    options = {key: _made(value) for key, value in stage.call["options"].items() if key != "network_file"}
    return {**options, **{key: beside[key] for key in beside.keys() & inspect.signature(call).parameters.keys()}}


def _made(value: Any) -> Any:
    if isinstance(value, dict) and "method" in value:
        kind, _, name = value["method"].partition("/")
        return registry.get(kind, name).made(value["options"])
    return value


def environment() -> dict[str, Any]:
    """Where a number was made; recorded, never part of a key."""
    return {
        "distrust": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(), "peak_mb": peak_memory(),
    }  # fmt: skip


def peak_memory() -> int | None:
    """Most memory that this process has held, in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)
