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
from ..imageset import PLAIN
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

    kind: str  # teacher, attack, transfer, student, defense, choose, predict or embed
    recipe: Recipe
    parents: tuple[Stage, ...]
    taint: tuple[str, ...]
    key: str
    passes: float  # how often each image of its role goes through a training step; for the estimate

    @property
    def role(self) -> str:
        """Whose images it works on."""
        return {"defense": "clean", "choose": "validation", "predict": "test", "embed": "test"}.get(self.kind, "train")

    @property
    def label(self) -> str:
        """What a person reads in the progress."""
        r = self.recipe
        what = {
            "teacher": lambda: f"{r['model']} on {_attack_label(r['attack'])} images",
            "attack": lambda: f"{_attack_label(r['attack'])} on the teacher",
            "transfer": lambda: f"to {r['images']['source']}",
            "student": lambda: f"{r['model']} by {r['distiller']['name']}",
            "defense": lambda: r["defense"]["name"],
            "choose": lambda: f"{r['option']} of {len(r['candidates'])}",
            "predict": lambda: f"under {_attack_label(r['attack'])}",
            "embed": lambda: f"{r['embed']} images",
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
    final: tuple[Stage, ...]  # the models of the attacked arm: teacher, attack on it, transfer, student, defence
    embed: Stage | None = None  # features for a picture of them

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
        yield from (s for s in (self.seen, self.control, self.undefended, *(self.teacher or ()), self.embed) if s)


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
    builder = _Builder(study, first_seed)
    seeds = range(first_seed, first_seed + study.seeds)
    cells = [builder.cell(chosen, seed) for chosen in study.combinations() for seed in seeds]
    builder.check_budget_options()
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

    def __init__(self, study: Study, first_seed: int = 0) -> None:
        self.study, self.budget, self.first_seed = study, study.budgets[study.budget], first_seed
        self.known: dict[str, Stage] = {}
        self.calls: dict[tuple[str, str], Recipe] = {}
        self.options = {
            "teacher": _resolved("teacher", self.budget.teacher, loop),
            "transfer": _resolved("transfer", self.budget.transfer, loop),
            "student": _resolved("student", self.budget.student, loop, distill),
        }

    def cell(self, chosen: dict[str, Selector], seed: int) -> PlannedCell:
        attack = None if chosen["attack"].name == "none" else self.call("attacks", chosen["attack"])
        place = registry.get("attacks", attack["name"]).mark.place if attack else None
        if place not in (None, 1, 2):
            raise BadInput(
                f"{chosen['attack'].name} enters at place {place}; a study of teachers and students takes attacks on "
                "training data (place 1) or on a teacher (2). `distrust list attacks` shows every attack's place."
            )
        clean = self.arm(chosen, None, seed)
        arm = self.arm(chosen, attack, seed) if attack else clean
        planted = next((s for s in arm if s.kind == "attack"), None)
        seen = self.predict(arm[-1], attack, planted, chosen, seed)
        control = teacher = undefended = embed = None
        if attack:
            control = self.predict(clean[-1], attack, planted, chosen, seed)
            teacher = (
                self.predict(_taught(arm), attack, planted, chosen, seed),
                self.predict(_taught(clean), attack, planted, chosen, seed),
            )
        if chosen["defense"].name != "none":
            undefended = self.predict(arm[-2], attack, planted, chosen, seed)
        if attack and self.study.embed and seed == self.first_seed:
            embed = self.predict(arm[-1], attack, planted, chosen, seed, embed=self.study.embed)
        axes = {axis: selector.text for axis, selector in chosen.items()}
        target = attack["options"]["target"] if attack else None
        return PlannedCell(axes, seed, place, target, seen, control, undefended, teacher, arm, embed)

    def arm(self, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
        """The models of one arm: teacher, attack on it, transfer, student, defence; the control arm has no attack."""
        before, images = self.images(chosen["images"], seed)
        options = self.options["teacher"]
        in_data = attack and registry.get("attacks", attack["name"]).mark.place == 1
        taint = (attack["name"],) if attack else ()
        teacher = {
            **_model(chosen["teacher"].text), "attack": attack if in_data else None,
            "options": options, "images": before, "seed": seed,
        }  # fmt: skip
        arm = [self.stage("teacher", teacher, (), taint if in_data else (), passes=options["epochs"])]
        if attack and not in_data:
            recipe = {"attack": attack, "images": before, "seed": seed}
            arm.append(self.stage("attack", recipe, (arm[-1],), taint, passes=_passes(attack["options"])))
        if images != before:
            options = self.options["transfer"]
            recipe = {"options": options, "images": images, "seed": seed}
            arm.append(self.stage("transfer", recipe, (arm[-1],), taint, passes=options["epochs"]))
        if chosen["distiller"].name != "none":
            call, options = self.distiller(chosen["distiller"])
            student = {
                **_model(chosen["student"].text), "distiller": call, "options": options, "images": images, "seed": seed,
            }  # fmt: skip
            arm.append(self.stage("student", student, (arm[-1],), taint, passes=1.4 * options["epochs"]))
        if chosen["defense"].name != "none":
            arm.append(self.defense(arm[-1], chosen["defense"], images, seed))
        return tuple(arm)

    def distiller(self, selector: Selector) -> tuple[Recipe, Recipe]:
        """The loss, and the options of `distill`: the budget's, the distiller's own, and what its selector changes."""
        mark = registry.get("distillers", selector.name).mark
        inner = {k: v for k, v in selector.options.items() if k in self.options["student"] or k == "warmup"}
        own = {k: v for k, v in selector.options.items() if k not in inner}
        call = self.call("distillers", Selector(selector.name, own))
        given = {**self.budget.student, **inner}
        given = {"teacher_mode": mark.teacher_mode} | ({"warmup": mark.warmup} if mark.warmup else {}) | given
        return call, _resolved(f"distiller {selector.name}", given, loop, distill)

    def defense(self, suspect: Stage, selector: Selector, images: Recipe, seed: int) -> Stage:
        """A defence, or, where options are tuned, one for each candidate and a choice on validation images."""
        tuned = selector.tuned
        names, values = list(tuned), [tuned[name] for name in tuned]
        candidates = []
        for combination in itertools.product(*values):
            call = self.call("defenses", selector.fixed(**dict(zip(names, combination, strict=True))))
            recipe = {"defense": call, "images": images, "seed": seed}
            candidates.append(self.stage("defense", recipe, (suspect,), suspect.taint, passes=_passes(call["options"])))
        if not tuned:
            return candidates[0]
        listing = [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]
        recipe = {
            "option": ",".join(names), "candidates": listing, "within": self.study.within,
            "images": images, "seed": seed,
        }  # fmt: skip
        return self.stage("choose", recipe, (suspect, *candidates), suspect.taint, passes=len(listing) / 2)

    def predict(
        self, model: Stage, attack: Recipe | None, planted: Stage | None, chosen: dict[str, Selector], seed: int,
        embed: int = 0,
    ) -> Stage:  # fmt: skip
        """Per-image predictions on the test images, clean and under the attack's trigger; or features of a few."""
        before, images = self.images(chosen["images"], seed)
        recipe: Recipe = {"attack": attack, "images": images, "seed": seed}
        if before != images and attack and not planted:
            recipe["attacked"] = before  # the attack on training data is redone on these
        parents = (model, planted) if planted and planted is not model else (model,)
        if embed:
            return self.stage("embed", {**recipe, "embed": embed}, parents, model.taint, passes=0.0)
        return self.stage("predict", recipe, parents, model.taint, passes=0.8)

    def images(self, selector: Selector, seed: int) -> tuple[Recipe, Recipe]:
        """Which images, cut into which roles: the teacher's, and the victim's; "A>B" where they differ."""
        for name in selector.options:
            if name not in IMAGE_OPTIONS:
                raise NotFound.among(f"option of images {selector.name}", name, IMAGE_OPTIONS)
        first, arrow, second = selector.name.partition(">")
        ours = self._images(first.strip(), selector, seed)
        return ours, self._images(second.strip(), selector, seed) if arrow else ours

    def _images(self, source: str, selector: Selector, seed: int) -> Recipe:
        b: Budget = self.budget
        return {
            "source": source, "size": b.size, **selector.options, "train": b.train, "test": b.test,
            "clean": b.clean, "validation": b.validation, "seed": seed, **_contents(source),
        }  # fmt: skip

    def check_budget_options(self) -> None:
        """An option in the budget that no attack, or no defence, has is a typing error."""
        for kind, given in (("attacks", self.budget.attack), ("defenses", self.budget.defense)):
            known = {name for method in registry.kind(kind).values() for name in method.options}
            for name in given:
                if name not in known:
                    raise NotFound.among(f"option of the {kind}", name, known)

    def call(self, kind: str, selector: Selector) -> Recipe:
        """A method with every option resolved and its code's hash."""
        at = (kind, selector.text)
        if at not in self.calls:
            method = registry.get(kind, selector.name)
            given = dict(selector.options)
            if selector.tuned:
                raise BadInput(f"{selector.text}: only a defence's options are tuned. Write an axis: [0.1,0.2].")
            shared = {"defenses": self.budget.defense, "attacks": self.budget.attack}.get(kind, {})
            given = {k: v for k, v in shared.items() if k in method.options} | given
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


def _taught(arm: tuple[Stage, ...]) -> Stage:
    """The model from which a student would learn: the last one before student and defence."""
    return [stage for stage in arm if stage.kind in ("teacher", "attack", "transfer")][-1]


def _passes(options: Recipe) -> float:
    """How often a method shows each image to a training step, as its options tell."""
    return float(sum(v for k, v in options.items() if k.endswith("epochs")))


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
    defaults.pop("warmup", None)  # stands in a recipe only where a distiller has two stages
    for name in given:
        if name not in defaults and name != "warmup":
            raise NotFound.among(f"option of {axis}", name, defaults)
    hints = {k: v for taker in takers for k, v in typing.get_type_hints(taker).items()}
    for name, value in given.items():
        try:
            value = PLAIN if name == "augment" and value == "none" else value
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
