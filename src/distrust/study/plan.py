"""Plan: from a study's combinations to stages with keys. Pure data; nothing is opened or trained here."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..backdoor import trigger_files
from ..errors import BadInput, NotFound
from ..methods import Method, registry
from ..models import model as make_model
from ..selectors import Selector
from ..training import distill, loop
from .spec import Budget, Study

IMAGE_OPTIONS = ("size", "channels", "group")
NUMERICS = 1  # raise it when the core's numbers change: every key changes with it

Recipe = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Stage:
    """One call written down: what to do, on which parents, with which seed. Its key is the hash of all that."""

    kind: str  # teacher, student, defense, choose or predict
    recipe: Recipe
    parents: tuple[Stage, ...]
    taint: tuple[str, ...]
    key: str
    passes: float  # how often each image of its role goes through a training step; for the estimate

    @property
    def role(self) -> str:
        """Whose images it works on."""
        return {"defense": "clean", "choose": "validation", "predict": "test"}.get(self.kind, "train")

    @property
    def label(self) -> str:
        """What a person reads in the progress."""
        r = self.recipe
        what = {
            "teacher": lambda: f"{r['model']} on {_attack_label(r['attack'])} images",
            "student": lambda: f"{r['model']} by {r['distiller']['name']}",
            "defense": lambda: r["defense"]["name"],
            "choose": lambda: f"{r['option']} of {len(r['candidates'])}",
            "predict": lambda: f"under {_attack_label(r['attack'])}",
        }[self.kind]()
        taint = f" ← {'+'.join(self.taint)}" if self.taint else ""
        return f"{self.kind} {what}{taint}, seed {r['seed']}"


@dataclass(frozen=True, eq=False)
class PlannedCell:
    """One line of the results: its axes, its seed, and the predictions it is scored from."""

    axes: dict[str, str]
    seed: int
    place: int | None
    target: int | None
    seen: Stage
    control: Stage | None
    undefended: Stage | None
    teacher: tuple[Stage, Stage] | None  # attacked and control teacher, for the carry-over rate
    final: tuple[Stage, ...]  # the models of the attacked arm: teacher, student, defence

    @functools.cached_property
    def id(self) -> str:
        """Readable and unique: a slug of the axes with a short hash of all of them."""
        return f"{'-'.join(self.slug)}-{_digest(self.axes)[:8]}-s{self.seed}"

    @property
    def slug(self) -> Iterator[str]:
        """The axes' bare names."""
        for text in self.axes.values():
            bare = text.partition("[")[0].replace("/", "_").replace(":", "_").replace(".", "_")
            yield bare[-24:]

    @property
    def stages(self) -> Iterator[Stage]:
        """The predictions it needs."""
        yield from (s for s in (self.seen, self.control, self.undefended, *(self.teacher or ())) if s)


@dataclass(frozen=True)
class Plan:
    """A study's cells and, parents first, its stages."""

    study: Study
    cells: list[PlannedCell]
    stages: dict[str, Stage] = field(default_factory=dict)


def make_plan(study: Study, only: str = "", first_seed: int = 0) -> Plan:
    """Check every name and option of a study and write down its stages, controls included.

    Args:
        study: what to do.
        only: plan just the cells whose id begins so.
        first_seed: seeds are first_seed, first_seed + 1, …

    Raises:
        NotFound: an unknown method, model or option, with near matches.
        BadInput: an option out of bounds, or an attack whose place this pipeline does not have.
    """
    builder = _Builder(study)
    seeds = range(first_seed, first_seed + study.seeds)
    cells = [builder.cell(chosen, seed) for chosen in study.combinations() for seed in seeds]
    builder.check_defense_options()
    if only:
        known = [cell.id for cell in cells]
        cells = [cell for cell in cells if cell.id.startswith(only)]
        if not cells:
            raise NotFound.among(f"cell of {study.name}", only, known)
    needed: dict[str, Stage] = {}
    for cell in cells:
        for stage in cell.stages:
            _collect(stage, needed)
    return Plan(study, cells, needed)


def _collect(stage: Stage, into: dict[str, Stage]) -> None:
    if stage.key not in into:
        for parent in stage.parents:
            _collect(parent, into)
        into[stage.key] = stage


class _Builder:
    """Builds each stage once; equal recipes are the same stage."""

    def __init__(self, study: Study) -> None:
        self.study, self.budget = study, study.budgets[study.budget]
        self.known: dict[str, Stage] = {}
        self.calls: dict[tuple[str, str], Recipe] = {}
        self.options = {
            "teacher": _resolved("teacher", self.budget.teacher, loop),
            "student": _resolved("student", self.budget.student, loop, distill),
        }

    def cell(self, chosen: dict[str, Selector], seed: int) -> PlannedCell:
        attack = None if chosen["attack"].name == "none" else self.call("attacks", chosen["attack"])
        place = None
        if attack:
            place = registry.get("attacks", attack["name"]).mark.place
            if place != 1:
                raise BadInput(
                    f"{attack['name']} enters at place {place}; a study of teachers and students takes attacks on "
                    "training data (place 1). `distrust list attacks` shows every attack's place."
                )
        arm = self.arm(chosen, attack, seed)
        seen = self.predict(arm[-1], attack, chosen, seed)
        control = teacher = undefended = None
        if attack:
            clean = self.arm(chosen, None, seed)
            control = self.predict(clean[-1], attack, chosen, seed)
            teacher = (
                self.predict(arm[0], attack, chosen, seed),
                self.predict(clean[0], attack, chosen, seed),
            )
        if chosen["defense"].name != "none":
            undefended = self.predict(arm[-2], attack, chosen, seed)
        axes = {axis: selector.text for axis, selector in chosen.items()}
        target = attack["options"]["target"] if attack else None
        return PlannedCell(axes, seed, place, target, seen, control, undefended, teacher, arm)

    def arm(self, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
        """Teacher, then student, then defence: the models of one arm. The control arm has no attack."""
        images = self.images(chosen["images"], seed)
        options = self.options["teacher"]
        teacher = self.stage(
            "teacher",
            {
                **_model(chosen["teacher"].text),
                "attack": attack,
                "options": options,
                "images": images,
                "seed": seed,
            },
            (),
            (attack["name"],) if attack else (),
            passes=options["epochs"],
        )
        arm = [teacher]
        if chosen["distiller"].name != "none":
            options = self.options["student"]
            student = {
                **_model(chosen["student"].text), "distiller": self.call("distillers", chosen["distiller"]),
                "options": options, "images": images, "seed": seed,
            }  # fmt: skip
            arm.append(self.stage("student", student, (teacher,), teacher.taint, passes=1.4 * options["epochs"]))
        if chosen["defense"].name != "none":
            arm.append(self.defense(arm[-1], chosen["defense"], images, seed))
        return tuple(arm)

    def defense(self, suspect: Stage, selector: Selector, images: Recipe, seed: int) -> Stage:
        """A defence, or, where options are tuned, one for each candidate and a choice on validation images."""
        tuned = selector.tuned
        names, values = list(tuned), [tuned[name] for name in tuned]
        candidates = []
        for combination in itertools.product(*values):
            call = self.call("defenses", selector.fixed(**dict(zip(names, combination, strict=True))))
            recipe = {"defense": call, "images": images, "seed": seed}
            passes = sum(v for k, v in call["options"].items() if k.endswith("epochs"))
            candidates.append(self.stage("defense", recipe, (suspect,), suspect.taint, passes=passes))
        if not tuned:
            return candidates[0]
        listing = [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]
        recipe = {
            "option": ",".join(names), "candidates": listing, "within": self.study.within,
            "images": images, "seed": seed,
        }  # fmt: skip
        return self.stage("choose", recipe, (suspect, *candidates), suspect.taint, passes=len(listing) / 2)

    def predict(self, model: Stage, attack: Recipe | None, chosen: dict[str, Selector], seed: int) -> Stage:
        """Per-image predictions on the test images, clean and under the attack's trigger."""
        images = self.images(chosen["images"], seed)
        return self.stage(
            "predict", {"attack": attack, "images": images, "seed": seed}, (model,), model.taint, passes=0.8
        )

    def images(self, selector: Selector, seed: int) -> Recipe:
        """Which images, cut into which roles."""
        for name in selector.options:
            if name not in IMAGE_OPTIONS:
                raise NotFound.among(f"option of images {selector.name}", name, IMAGE_OPTIONS)
        b: Budget = self.budget
        return {
            "source": selector.name, "size": b.size, **selector.options, "train": b.train, "test": b.test,
            "clean": b.clean, "validation": b.validation, "seed": seed, **_contents(selector.name),
        }  # fmt: skip

    def check_defense_options(self) -> None:
        """An option in the budget that no defence has is a typing error."""
        known = {name for method in registry.kind("defenses").values() for name in method.options}
        for name in self.budget.defense:
            if name not in known:
                raise NotFound.among("option of a defense", name, known)

    def call(self, kind: str, selector: Selector) -> Recipe:
        """A method with every option resolved and its code's hash."""
        at = (kind, selector.text)
        if at not in self.calls:
            method = registry.get(kind, selector.name)
            given = dict(selector.options)
            if selector.tuned:
                raise BadInput(f"{selector.text}: only a defence's options are tuned. Write an axis: [0.1,0.2].")
            if kind == "defenses":
                given = {k: v for k, v in self.budget.defense.items() if k in method.options} | given
            options = {k: _plain(v) for k, v in method.check(given).items()}
            self.calls[at] = {"name": method.name, "options": options, "code": method.code}
            files = {k: v for option in options.values() for k, v in _files(option, kind).items()}
            if kind == "attacks" and isinstance(options.get("trigger"), str):
                self.calls[at]["trigger_code"] = _trigger_code(options["trigger"])
            if files:
                self.calls[at]["files"] = files
        return self.calls[at]

    def stage(
        self, kind: str, recipe: Recipe, parents: tuple[Stage, ...], taint: tuple[str, ...], passes: float
    ) -> Stage:
        """The stage with this recipe; one object for equal recipes."""
        key = _digest([kind, recipe, [p.key for p in parents], NUMERICS])[:32]
        if key not in self.known:
            self.known[key] = Stage(kind, recipe, parents, taint, key, passes)
        return self.known[key]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _files(option: Any, kind: str) -> dict[str, str]:
    return trigger_files(option) if kind == "attacks" and isinstance(option, str) and _is_trigger(option) else {}


def _is_trigger(text: str) -> bool:
    return text.endswith(".json") or text.partition("[")[0].partition(":")[0] in registry.kind("triggers")


def _trigger_code(text: str) -> str:
    if text.endswith(".json"):
        return "file"
    method: Method = registry.get("triggers", text.partition("[")[0].partition(":")[0])
    return method.code


def _plain(value: Any) -> Any:
    """JSON-able: tuples become lists."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    raise BadInput(f"{value!r} cannot stand in a study; write a number, a word or a list.")


@functools.cache
def _model(name: str) -> Recipe:
    """A model's part of a recipe; a wrong name stops the plan. A user's file is looked at, not run."""
    file, _, factory = name.rpartition(":")
    if not file.endswith(".py"):
        make_model(name, classes=10)
        return {"model": name}
    if not Path(file).is_file():
        raise NotFound(f"no file {file} for model {name}. Give the path of a Python file that defines {factory}.")
    return {"model": name, "model_file": hashlib.sha256(Path(file).read_bytes()).hexdigest()}


@functools.cache
def _contents(source: str) -> Recipe:
    """Of images given by path, what tells one state from another; a name or the hub says so itself."""
    path = Path(source)
    if not path.exists():
        return {}
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    state = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return {"contents": _digest(state)[:16]}


def _resolved(axis: str, given: dict[str, Any], *takers: Any) -> Recipe:
    """Every option of the loop with its value; what only concerns the machine counts if it is asked for."""
    defaults = {
        name: p.default
        for taker in takers
        for name, p in inspect.signature(taker).parameters.items()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty and name not in ("rng", "device", "extra", "beside")
    }
    for name in given:
        if name not in defaults:
            raise NotFound.among(f"option of {axis}", name, defaults)
    hints = {k: v for taker in takers for k, v in typing.get_type_hints(taker).items()}
    for name, value in given.items():
        try:
            defaults[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise BadInput(f"{axis}: {name}={value!r}: {reason[:1].lower()}{reason[1:]}.") from None
    options = {k: v for k, v in defaults.items() if k in given or k not in ("precision", "memory_format")}
    return {
        **options,
        "augment": dataclasses.asdict(options["augment"]),
        "milestones": list(options["milestones"]),
    }


def _attack_label(attack: Recipe | None) -> str:
    return attack["name"] if attack else "clean"
