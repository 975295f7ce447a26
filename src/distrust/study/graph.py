"""The nouns of a plan: a stage, a cell, and a plan of both."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..registry import Method, registry
from .spec import Study

PLAIN = str.maketrans("/:.", "___")
Env = dict[str, "Stage"]  # products by name


def digest(value: Any) -> str:
    """SHA-256 of anything that JSON can hold; the order of entries does not count."""
    return hashlib.sha256(_written(value).encode()).hexdigest()


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


_quoted = functools.lru_cache(json.dumps)  # names of parameters


class Call(dict[str, Any]):
    """What is called: method, version and options; a method as "defenses/nad", a step of `steps` by its name."""

    @functools.cached_property
    def text(self) -> str:
        """As `digest` writes it; many stages call the same, and nobody changes a call."""
        return _written(self)

    def __reduce__(self) -> Any:
        return Call, (dict(self),)  # the text stays behind


def key_of(call: Call, inputs: Env, seed: int, core: str) -> str:
    """A stage's key: what `digest` says of [call, names and keys of its inputs, seed, core]."""
    given = ",".join([f'{_quoted(name)}:"{inputs[name].key}"' for name in sorted(inputs)])
    text = f'[{call.text},{{{given}}},{seed},"{core}"]'
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Stage:
    """A call written down: its key is the hash of call, inputs and seed.

    Args:
        kind: the place that it fills: teacher, attack, student, predict …
        call: what is called, with every option resolved.
        inputs: parameter → the stage whose product it takes.
        seed: of what it draws.
        taint: names of the attacks among its ancestors.
        kept: it is stored; what is cheap is made again where it is read.
        key: 32 hexadecimal digits.
        label: what a person reads in the progress.
    """

    kind: str
    call: Call
    inputs: Env
    seed: int
    taint: tuple[str, ...]
    kept: bool
    key: str
    label: str

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and other.key == self.key

    @property
    def method(self) -> Method | None:
        """The registered method that is called, or for which something is made, if it is one."""
        kind, sign, name = self.call["method"].partition("/")
        return registry.get(kind, name.partition(":")[0]) if sign else None

    @functools.cached_property
    def parents(self) -> tuple[Stage, ...]:
        """The stages that must be stored before it can be carried out."""
        found: dict[str, Stage] = {}
        for source in self.inputs.values():
            found |= {s.key: s for s in ((source,) if source.kept else source.parents)}
        return tuple(found.values())

    @property
    def spare(self) -> set[str]:
        """Keys of inputs of which one is enough: candidates that are chosen among."""
        return {stage.key for name, stage in self.inputs.items() if name.startswith("candidate")}

    def lineage(self) -> Iterable[Stage]:
        """Its ancestors and itself, parents first, each once."""
        done: Env = {}
        collect([self], done)
        return done.values()


def collect(stages: Iterable[Stage], into: Env) -> None:
    """Add stages and all that they need, parents first."""
    for stage in stages:
        if stage.key not in into:
            collect(stage.inputs.values(), into)
            into[stage.key] = stage


def named(axes: Mapping[str, str]) -> str:
    """What the ids of cells with these axes begin with: a slug of them, and a short hash of all of them."""
    bare = (text.partition("[")[0].translate(PLAIN)[-24:] for text in axes.values())
    return f"{'-'.join(bare)}-{digest(axes)[:8]}"


@dataclass(frozen=True)
class PlannedCell:
    """One line of the results: its axes, its seed, and what it is scored from.

    Args:
        axes: axis → selector, as the cell shows them.
        seed: of every arm.
        place: where the attack enters, or None.
        target: the attack's class, or None.
        cleans: what the defence cleans, or None.
        arms: name → products of an arm: "ours", "control" (the attack left out), "undefended", "teacher" and
            "teacher_control" (nothing distilled).
        seen: arm → (clean, triggered or None): predictions of its model.
        metrics: metric → the stage that measures it.
        findings: "finding" and "finding_control": a detector's looks.
        embed: features for a picture of them.
        repeated: how many seeds its combination has.
    """

    axes: dict[str, str]
    seed: int
    place: int | None
    target: int | None
    cleans: str | None
    arms: Mapping[str, Env]
    seen: Mapping[str, tuple[Stage, Stage | None]]
    metrics: Env
    findings: Env
    embed: Stage | None
    repeated: int

    @functools.cached_property
    def id(self) -> str:
        """Readable and unique."""
        return f"{named(self.axes)}-s{self.seed}"

    @functools.cached_property
    def final(self) -> list[Stage]:
        """The attacked arm: the stages that led to its model, as far as they are stored."""
        ours, found = self.arms["ours"], dict[str, Stage]()
        collect([ours[name] for name in ("backdoor", "model") if name in ours], found)
        return [stage for stage in found.values() if stage.kept and stage.kind != "features"]

    @property
    def keys(self) -> dict[str, str]:
        """Kind → key of the stages of the attacked arm, and of its predictions."""
        chosen = [stage for stage in self.final if stage.key not in {k for s in self.final for k in s.spare}]
        return {stage.kind: stage.key for stage in (*chosen, *filter(None, self.seen["ours"]))}

    @property
    def needed(self) -> Iterator[Stage]:
        """What must be carried out for it."""
        yield from (stage for pair in self.seen.values() for stage in pair if stage)
        yield from (*self.metrics.values(), *self.findings.values(), *([self.embed] if self.embed else []))


@dataclass(frozen=True)
class Plan:
    """A study's cells and, parents first, the stages that are stored."""

    study: Study
    cells: list[PlannedCell]
    stages: Env = field(default_factory=dict)
    code: tuple[str, ...] = ()  # the FILE.py:FACTORY that it names, which a run executes
