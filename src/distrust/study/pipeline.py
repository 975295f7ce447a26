"""The pipeline: its positions, who may stand there, and the stages that a study puts there.

A lane is no code: which positions are filled follows from the axes and from a method's mark, and a stage's inputs are
earlier products, bound by parameter name. The control arm is the same arm with the attack left out.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, NotFound
from ..measurement.scores import planned
from ..registry import Method, registry
from ..selectors import Selector, divided, parse_one
from ..training.pretrain import ADAM
from ..versions import CORE
from .axes import AXES
from .calls import (
    BESIDE,
    IMAGE_OPTIONS,
    call_of,
    contents_of,
    distillation,
    given_of,
    network,
    options_of,
    step_call,
    training,
    views,
)
from .graph import Call, Env, Stage, digest, key_of
from .spec import DIALS, Study
from .steps import STEPS
from .words import NONE, cleans, mark_of, misplaced, placed, share_of, what

Chosen = Mapping[str, Selector]


@dataclass(frozen=True)
class Position:
    """A place in the pipeline.

    Args:
        kind: of the stage that fills it, and the step of the core that does, unless the axis' method does.
        axis: whose entry stands there.
        makes: the product that it replaces.
        when: (chosen, mark of the axis' method) → it is filled.
        first: it works on A of images "A>B", as they were before an attack.
        later: it works on B.
    """

    kind: str
    axis: str
    makes: str
    when: Callable[[Chosen, Any], bool]
    first: bool = False
    later: bool = False


def _place(place: int) -> Callable[[Chosen, Any], bool]:
    return lambda chosen, mark: mark is not None and mark.place == place


def _on(what: str, *without: str) -> Callable[[Chosen, Any], bool]:
    return lambda chosen, mark: mark is not None and mark.cleans(what) and _has("defense", *without)(chosen, mark)


def _has(axis: str, *without: str) -> Callable[[Chosen, Any], bool]:
    return lambda chosen, mark: chosen[axis] != NONE and all(chosen[other] == NONE for other in without)


def _cleans(model: str) -> Callable[[Chosen, Any], bool]:
    return lambda chosen, mark: _on("classifier", "encoder")(chosen, mark) and cleans(chosen) == model


def _moves(chosen: Chosen, mark: Any) -> bool:
    return len(divided(chosen["images"].name, ">")) > 1 and chosen["encoder"] == NONE


PIPELINE = (
    Position("plant", "attack", "train", _place(1)),
    Position("teacher", "teacher", "model", _has("teacher", "condenser", "encoder")),
    Position("condense", "condenser", "synthetic", _has("condenser")),
    Position("pretrain", "encoder", "encoder", _has("encoder")),
    Position("attack", "attack", "model", _place(2)),
    Position("poison", "attack", "synthetic", _place(4)),
    Position("attack", "attack", "encoder", _place(5)),
    Position("defense", "defense", "model", _cleans("teacher"), first=True),
    Position("transfer", "images", "model", _moves, later=True),
    Position("poison", "attack", "transfer", _place(3), later=True),
    Position("sift", "defense", "transfer", _on("transfer"), later=True),
    Position("sift", "defense", "synthetic", _on("synthetic")),
    Position("defense", "defense", "encoder", _on("encoder")),
    Position("student", "distiller", "model", _has("distiller"), later=True),
    Position("victim", "student", "model", _has("condenser"), later=True),
    Position("features", "encoder", "shown", _has("encoder"), later=True),
    Position("head", "student", "model", _has("encoder"), later=True),
    Position("defense", "defense", "model", _cleans("student"), later=True),
)
METHODS = ("attack", "condenser", "defense")  # axes whose method itself fills the position
CHEAP = {"plant", "images", "references"}  # made again where they are read
SCORED = ("measure", "over_seeds")  # of the core, what works on stored products; no stage's key holds it
SAME = {"teacher": "model", "raw": "train", "suspect": "model", "encoder": "model"}  # other names in signatures
ROLES = ("train", "clean", "validation", "test")


class Planner:
    """Writes each stage down once; equal calls on equal inputs are the same stage."""

    def __init__(self, study: Study) -> None:
        self.study, self.budget = study, study.budgets[study.budget]
        self.core = digest({name: version for name, version in CORE.items() if name not in SCORED})
        self.known: Env = {}
        self.arms: dict[tuple[Any, ...], Env] = {}
        self.calls: dict[tuple[Any, ...], Call] = {}
        self.asked = {selector.name: selector for selector in map(parse_one, study.metrics)}
        self.wanted = functools.cache(functools.partial(planned, asked=frozenset(self.asked)))
        self.shown: dict[tuple[Any, ...], tuple[Stage, Stage | None]] = {}
        self.cut: dict[tuple[Any, ...], Env] = {}
        self.contents_of = functools.cache(contents_of)
        training("teacher", self.budget.teacher)  # a wrong option stops the plan, whoever stands there
        training("transfer", self.budget.transfer)
        distillation("student", self.budget.student)
        views(self.budget.views)
        for name, selector in self.asked.items():
            self.call("metrics", selector)
            if not registry.get("metrics", name).mark.asked:
                known = [metric.name for metric in registry.kind("metrics").values() if metric.mark.asked]
                told = f"metrics: {name} is in every cell that it fits. Name what is measured only if it is asked for"
                raise BadInput(f"{told}: {', '.join(known)}.")
        for kind, dial in DIALS.items():
            for name, options in getattr(self.budget, dial).items():
                method = registry.get(kind, name)
                makes = getattr(method.mark, "makes", {}).values()
                prepared = set(itertools.chain.from_iterable(map(options_of, makes)))
                method.check({k: v for k, v in options.items() if k not in prepared})

    def stage(
        self, kind: str, call: Call, inputs: Env, seed: int, makes: str = "", taint: tuple[str, ...] = ()
    ) -> Stage:
        """The stage with this call and these inputs."""
        key = key_of(call, inputs, seed, self.core)
        if key not in self.known:
            inherited = itertools.chain.from_iterable(s.taint for name, s in inputs.items() if name != "backdoor")
            whole = tuple(dict.fromkeys((*inherited, *taint)))
            label = f"{kind} {what(call, inputs, makes)}{' ← ' + '+'.join(whole) if whole else ''}, seed {seed}"
            self.known[key] = Stage(kind, call, inputs, seed, whole, kind not in CHEAP, key, label)
        return self.known[key]

    def forget(self) -> None:
        """Let go of the stages; calls are kept, which are few."""
        self.known, self.arms, self.cut, self.shown = {}, {}, {}, {}

    def step(self, kind: str, env: Env, seed: int, **options: Any) -> Stage:
        """A stage of the core's own: a step of `steps` on the products that its parameters name."""
        return self.stage(kind, self._step(kind, **options), _given(kind, env), seed)

    def _step(self, kind: str, **options: Any) -> Call:
        return self.once(lambda: step_call(kind, options), kind, *options.items())

    def once(self, make: Callable[[], Call], *at: Any) -> Call:
        """A call that many stages share: made, and so checked, once for the words that decide it."""
        if at not in self.calls:
            self.calls[at] = make()
        return self.calls[at]

    def call(self, kind: str, selector: Selector) -> Call:
        """A method with every option resolved: the selector's, the budget's, its own."""
        return self.once(lambda: self._call(kind, selector), kind, selector.text)

    def _call(self, kind: str, selector: Selector) -> Call:
        if selector.tuned:
            raise BadInput(f"{selector.text}: only a defence's options are tuned. Write an axis: [0.1,0.2].")
        method = registry.get(kind, selector.name)
        dialled = self.budget.dialled(kind, selector.name)
        if kind == "metrics":  # the others are of what is made for it
            dialled = {k: v for k, v in dialled.items() if k in method.options}
        return call_of(method, {**dialled, **selector.options})

    def arm(self, chosen: Chosen, seed: int) -> Env:
        """Every product of one arm by name; `model` is what is measured, `backdoor` who planted it."""
        at = (*(selector.text for axis, selector in chosen.items() if axis != "detector"), seed)
        if at not in self.arms:
            self.arms[at] = self._arm(chosen, seed)
        return self.arms[at]

    def _arm(self, chosen: Chosen, seed: int) -> Env:
        first, later = self.images(chosen["images"], seed)
        env: Env = {**first, "untouched": first["train"], "downstream": later["train"]}
        if chosen["distiller"] != NONE:
            env["transfer"] = later["train"]
        placed = set()
        for position in PIPELINE:
            axis, makes = position.axis, position.makes
            given = {**env, **(later if position.later else first if position.first else {})}
            if position.when(chosen, mark_of(axis, chosen)) and (makes in env or axis not in ("attack", "defense")):
                made = self.fill(position, chosen, given, seed)
                if axis == "attack":
                    env |= {"backdoor": made, "poisoned": made, "before": given[makes]}
                    env |= dict.fromkeys(mark_of(axis, chosen).notes, made)
                elif position.kind == "sift":
                    env |= {"suspect": given[makes], "cleaned": made}
                env[makes] = made
                env.setdefault(f"first_{makes}", made)
                if makes == "model" and (axis in ("teacher", "attack", "images") or position.first):
                    env["taught"] = made
                if axis == "teacher" == position.kind:
                    env["trained_on"] = given["train"]
                placed.add(axis)
        for axis in ("attack", "defense"):
            if chosen[axis] != NONE and axis not in placed:
                raise misplaced(axis, chosen)
        return {**env, "early": first["clean"], **later}

    def fill(self, position: Position, chosen: Chosen, env: Env, seed: int) -> Stage:
        """The stage at one position."""
        kind = position.kind
        if position.axis in METHODS:
            return self.method(position, chosen[position.axis], env, seed)
        at = (chosen[axis].text for axis in ("teacher", "encoder", "distiller", "student"))
        call = self.once(lambda: step_call(kind, self.options(kind, chosen)), kind, *at)
        return self.stage(kind, call, _given(kind, env), seed)

    def options(self, kind: str, chosen: Chosen) -> dict[str, Any]:
        """Of a step at its position."""
        student, b, options = chosen["student"], self.budget, dict[str, Any]()
        if kind == "teacher":
            options = {**network(_named(chosen["teacher"])), "training": training("teacher", b.teacher)}
        elif kind == "pretrain":
            options = {**network(_named(chosen["teacher"])), "loss": self.call("objectives", chosen["encoder"])}
            options |= {"views": views(b.views), "training": training("teacher", b.teacher, ADAM)}
        elif kind == "transfer":
            options = {"training": training("transfer", b.transfer)}
        elif kind == "student":
            options = {**network(_named(student)), **self.distilled(chosen["distiller"])}
        elif kind == "victim":
            options = {**network(_named(student)), "training": given_of("student", b.student)}
        elif kind == "head":
            options = {"fit": self.call("heads", student)}
        return options

    def method(self, position: Position, selector: Selector, env: Env, seed: int) -> Stage:
        """A method at its position; where options are tuned, one for each candidate, and a choice among them."""
        kind, makes = AXES[position.axis].kind, position.makes
        method = registry.get(kind, selector.name)
        if "references" in method.inputs:
            target = self.call(kind, selector)["options"]["target"]
            count = method.mark.references
            env = {**env, "references": self.step("references", env, seed, target=target, count=count)}
        selector, env = self.given(selector, method, env, seed)
        inputs = {name: self.input(name, method, env) for name in method.inputs}
        taint = (selector.name,) if position.axis == "attack" else ()
        if not selector.tuned:
            at = "poison" if position.kind in CHEAP and method.mark.cost else position.kind  # what is dear is stored
            return self.stage(at, self.call(kind, selector), inputs, seed, makes, taint)
        if kind == "defenses" and position.kind == "sift":
            raise BadInput(f"{selector.text}: a defence of images is not tuned. Write an axis: [0.1,0.2].")
        if kind == "defenses" and makes == "encoder":
            raise BadInput(f"{selector.text}: an encoder has no accuracy to tune by. Write an axis: [0.001,0.01].")
        tuned = selector.tuned if kind == "defenses" else {}
        rows = [dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())]
        made = [self.stage("defense", self.call(kind, selector.fixed(**row)), inputs, seed, makes) for row in rows]
        given = {"suspect": inputs[method.inputs[0]], "validation": env["validation"]}
        given |= {f"candidate{i}": candidate for i, candidate in enumerate(made)}
        options = {"candidates": rows, "within": self.study.within}
        call = self.once(lambda: step_call("choose", options), "choose", selector.text)
        return self.stage("choose", call, given, seed)

    def input(self, name: str, method: Method, env: Env) -> Stage:
        """The product that a parameter of a method names."""
        if getattr(method.mark, "blind", False) and name == method.inputs[0]:
            return env[f"first_{name}"]
        product = name if name in env else SAME.get(name, name)
        if product not in env:
            raise BadInput(f"{method.name} asks for {name!r}, which is not made here. There are: {', '.join(env)}.")
        return env[product]

    def given(self, selector: Selector, method: Method, env: Env, seed: int) -> tuple[Selector, Env]:
        """`at` and `clean` in a defence's selector are no options of the method; `clean` says what images it gets.

        That is a share of the training split, or another source, whose training images nobody else needs.
        """
        if method.mark.kind == "defenses":
            selector = placed(selector, method)
        clean = selector.options.get("clean")
        if clean is None or "clean" in method.options or "clean" not in method.inputs:
            return selector, env
        options, bare = env["clean"].call["options"], selector.without("clean")
        if isinstance(clean, str):
            theirs = self._roles(clean, {name: options[name] for name in IMAGE_OPTIONS if name in options}, seed)
            return bare, {**env, "clean": theirs["train"], "validation": theirs["validation"]}
        asked = {**options, "share": share_of(selector, options["held"])}
        return bare, {**env, "clean": self.stage("images", self._step("images", **asked), {}, seed)}

    def distilled(self, selector: Selector) -> dict[str, Any]:
        """The loss, and the options of `distill`: the budget's, the distiller's own, and what its selector changes."""
        mark = registry.get("distillers", selector.name).mark
        known = {*distillation("student", self.budget.student), *BESIDE}
        inner = {name: value for name, value in selector.options.items() if name in known}
        own = {name: value for name, value in selector.options.items() if name not in known}
        declared = {"teacher_mode": mark.teacher_mode} | ({"warmup": mark.warmup} if mark.warmup else {})
        options = distillation(f"distiller {selector.name}", {**declared, **self.budget.student, **inner})
        return {"loss": self.call("distillers", Selector(selector.name, own)), "training": options}

    def images(self, selector: Selector, seed: int) -> tuple[Env, Env]:
        """Images cut into roles: the teacher's, and those of who inherits from it; "A>B" where they differ."""
        for name in selector.options:
            if name not in IMAGE_OPTIONS:
                raise NotFound.among(f"option of images {selector.name}", name, IMAGE_OPTIONS)
        first, *more = divided(selector.name, ">")
        if more and Path(selector.name).exists():
            told = f'"A>B" moves a teacher from A to B, and {selector.name} is a path'
            raise BadInput(f'images {selector.name}: {told}. Put it in quotes: "{selector.name}".')
        ours = self._roles(first, selector.options, seed)
        return ours, self._roles(more[0], selector.options, seed) if more else ours

    def _roles(self, source: str, options: dict[str, Any], seed: int) -> Env:
        at = (source, *options.items(), seed)
        if at not in self.cut:
            b = self.budget
            held = b.held or b.clean
            if held < b.clean:
                raise BadInput(f"held = {b.held} is less than clean = {b.clean}, which is drawn from it. Raise held.")
            opened = {"source": source, "size": b.size, **options, **self.contents_of(source)}
            cut = {**opened, "held": held, "validation": b.validation}
            of = {"train": {**cut, "most": b.train}, "clean": {**cut, "share": b.clean}, "validation": cut}
            of["test"] = {**opened, "most": b.test}
            self.cut[at] = {
                role: self.stage("images", self._step("images", role=role, **given), {}, 0 if role == "test" else seed)
                for role, given in of.items()
            }
        return self.cut[at]

    def look(self, selector: Selector, env: Env, seed: int) -> Stage:
        """A detector's look at the last model of an arm, its synthetic set or its encoder, by draws of its own."""
        method = registry.get("detectors", selector.name)
        call, on = Call(self.call("detectors", selector), draws="by suspect"), method.mark.on
        product = on if on in ("synthetic", "encoder") else "model"
        if product not in env:
            raise misplaced("detector", {"detector": selector, "condenser": NONE, "encoder": NONE, "distiller": NONE})
        clean = env["early"] if on == "encoder" else env.get("synthetic", env["clean"])
        return self.stage("detect", call, {"suspect": env[product], "clean": clean}, seed, product)

    def seen(self, env: Env, backdoor: Stage | None, seed: int) -> tuple[Stage, Stage | None]:
        """Predictions of an arm's model on its test images: clean, and under a backdoor's trigger."""
        at = (env["model"], env["test"], env.get("encoder"), backdoor, seed)

        def shown(**planted: Stage) -> Stage:
            given = {"model": env["model"], "test": env["test"], **planted}
            if "encoder" in env:  # the heads of an encoder share what it makes of the images
                given["shown"] = self.step("represent", {**given, "encoder": env["encoder"]}, seed)
            kind = "triggered" if planted else "predict"
            return self.stage(kind, self._step("predict"), given, seed, "")

        if at not in self.shown:
            self.shown[at] = shown(), shown(backdoor=backdoor) if backdoor else None
        return self.shown[at]

    def measured(self, method: Method, products: Env, facts: Mapping[str, Any], seed: int) -> Stage:
        """A metric that needs more than predictions, as a stage; `facts` are axes and the target."""
        said = {name: facts[name] for name in method.inputs if name in facts}
        inputs = {
            name: products.get(name) or self.prepared(method, name, products, seed)
            for name in method.inputs
            if name in products or name in method.mark.makes
        }
        usual = self.call("metrics", self.asked.get(method.name, Selector(method.name)))
        call = self.once(lambda: Call(usual, options={**usual["options"], **said}), "metric", method, *said.items())
        return self.stage("metric", call, inputs, seed)

    def prepared(self, method: Method, name: str, products: Env, seed: int) -> Stage:
        """What a metric has made for itself; metrics that name the same function share it."""
        make = method.mark.makes[name]
        owner = min(m.name for m in registry.kind("metrics").values() if make in m.mark.makes.values())
        parameters, planted = inspect.signature(make).parameters.values(), products["backdoor"].call

        def made() -> Call:
            options = options_of(make)
            for given in (self.budget.dialled("metrics", owner), planted["options"]):
                options |= {option: value for option, value in given.items() if option in options}
            return Call(method=f"metrics/{owner}:{name}", version=method.version, options=options)

        inputs = {p.name: products[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        return self.stage(name, self.once(made, owner, name, planted.text), inputs, seed)


def _given(kind: str, env: Env) -> Env:
    return {name: env[name] for name in STEPS[kind].inputs if name in env}


def _named(selector: Selector) -> str:
    """A network, whose path may be in quotes."""
    return divided(selector.text)[0]
