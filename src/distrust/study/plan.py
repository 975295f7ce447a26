"""Plan: from a study's combinations to stages with keys. Pure data; nothing is opened or trained here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..errors import BadInput, NotFound
from ..methods import registry
from ..selectors import Selector
from ..training import distill, loop
from .lanes import archetypes_of, condensed, encoded, place_of
from .recipes import Recipe, contents_of, digest, files_of, model_of, passes_of, plain, resolved, trigger_code
from .spec import Budget, Study
from .stages import Plan, PlannedCell, Stage, synthetic

IMAGE_OPTIONS = ("size", "channels", "group")
TAKES: dict[str, tuple[int | None, ...]] = {"condenser": (None, 1, 4), "encoder": (None, 1, 5), "": (None, 1, 2, 3)}
NUMERICS = 1  # raise it when the core's numbers change: every key changes with it


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
    builder = Builder(study, first_seed)
    cells = [
        builder.cell(chosen, first_seed + i) for chosen, repeated in study.combinations() for i in range(repeated)
    ]
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


class Builder:
    """Builds each stage once; equal recipes are the same stage."""

    def __init__(self, study: Study, first_seed: int = 0) -> None:
        self.study, self.budget, self.first_seed = study, study.budgets[study.budget], first_seed
        b = self.budget
        self.shared = {
            "attacks": b.attack, "condensers": b.condenser, "encoders": b.encoder, "heads": b.head,
            "defenses": b.defense, "detectors": b.detector,
        }  # fmt: skip
        self.known: dict[str, Stage] = {}
        self.calls: dict[tuple[str, str], Recipe] = {}
        self.options = {
            "teacher": resolved("teacher", self.budget.teacher, loop),
            "transfer": resolved("transfer", self.budget.transfer, loop),
            "student": resolved("student", self.budget.student, loop, distill),
        }

    def cell(self, chosen: dict[str, Selector], seed: int) -> PlannedCell:
        """One combination with one seed: the attacked arm, its control, and what they are scored from."""
        attack = None if chosen["attack"].name == "none" else self.call("attacks", chosen["attack"])
        place = place_of(attack)
        lane = next((axis for axis in TAKES if axis and chosen[axis].name != "none"), "")
        if place not in TAKES[lane]:
            raise BadInput(
                f"{chosen['attack'].name} enters at place {place}; with a condenser a study takes attacks on training "
                "data (place 1) and on the synthetic set (4), with an encoder on training data and on the encoder (5), "
                "without either on training data, on a teacher (2) and on a transfer set (3). `distrust list attacks` "
                "shows every attack's place."
            )
        if place == 3 and chosen["distiller"].name == "none":
            raise BadInput(
                f"{chosen['attack'].name} poisons a transfer set, and distiller 'none' has none. Name a distiller: kd."
            )
        clean = self.arm(chosen, None, seed)
        arm = self.arm(chosen, attack, seed) if attack else clean
        planted = [s for s in arm if s.kind in ("attack", "poison")]
        if attack and place == 4:
            planted.append(archetypes_of(self, attack, clean[0]))
        seen = self.predict(arm[-1], attack, planted, chosen, seed)
        control = teacher = undefended = embed = None
        if attack:
            control = self.predict(clean[-1], attack, planted, chosen, seed)
        if attack and not lane:
            teacher = (
                self.predict(_taught(arm), attack, planted, chosen, seed),
                self.predict(_taught(clean), attack, planted, chosen, seed),
            )
        if chosen["defense"].name != "none":
            bare = self.arm({**chosen, "defense": Selector("none")}, attack, seed)
            undefended = self.predict(bare[-1], attack, planted, chosen, seed)
        if attack and lane != "encoder" and self.study.embed and seed == self.first_seed:
            embed = self.predict(arm[-1], attack, planted, chosen, seed, embed=self.study.embed)
        found: tuple[Stage, ...] = ()
        if chosen["detector"].name != "none":
            arms = (arm, clean) if attack else (arm,)
            found = tuple(self.detect(stages, chosen["detector"], chosen, seed) for stages in arms)
        new = ("condenser", "encoder", "detector")  # axes that a cell only has if they are used
        axes = {axis: s.text for axis, s in chosen.items() if s.name != "none" or axis not in new}
        target = attack["options"]["target"] if attack else None
        return PlannedCell(axes, seed, place, target, seen, control, undefended, teacher, arm, embed, found)

    def arm(self, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
        """One arm: teacher, attack on it, transfer, transfer set, student, defence; the control arm has no attack."""
        if chosen["condenser"].name != "none":
            return condensed(self, chosen, attack, seed)
        if chosen["encoder"].name != "none":
            return encoded(self, chosen, attack, seed)
        before, images = self.images(chosen["images"], seed)
        options, place = self.options["teacher"], place_of(attack)
        taint = (attack["name"],) if attack else ()
        teacher = {
            **model_of(chosen["teacher"].text), "attack": attack if place == 1 else None,
            "options": options, "images": before, "seed": seed,
        }  # fmt: skip
        arm = [self.stage("teacher", teacher, (), taint if place == 1 else (), passes=options["epochs"])]
        if place == 2:
            assert attack
            recipe = {"attack": attack, "images": before, "seed": seed}
            arm.append(self.stage("attack", recipe, (arm[-1],), taint, passes=passes_of(attack["options"])))
        if images != before:
            options = self.options["transfer"]
            recipe = {"options": options, "images": images, "seed": seed}
            arm.append(self.stage("transfer", recipe, (arm[-1],), arm[-1].taint, passes=options["epochs"]))
        defense = chosen["defense"]
        on = registry.get("defenses", defense.name).mark.on
        if on == "synthetic":
            raise BadInput(f"{defense.name} works on a synthetic set, and condenser 'none' makes none. Name one: dm.")
        if on == "encoder":
            raise BadInput(f"{defense.name} works on an encoder, and encoder 'none' makes none. Name one: simclr.")
        if chosen["distiller"].name != "none":
            sets = self.transfer_set(arm[-1], attack if place == 3 else None, defense, images, seed)
            call, options = self.distiller(chosen["distiller"])
            student = {
                **model_of(chosen["student"].text), "distiller": call, "options": options, "images": images,
                "seed": seed,
            }  # fmt: skip
            parents = (arm[-1], *sets[-1:])
            arm += [*sets, self.stage("student", student, parents, taint, passes=1.4 * options["epochs"])]
        elif on == "transfer":
            raise BadInput(f"{defense.name} sifts a transfer set, and distiller 'none' has none. Name a distiller: kd.")
        if defense.name != "none" and on != "transfer":
            arm.append(self.defense(arm[-1], defense, images, seed))
        return tuple(arm)

    def detect(self, arm: Sequence[Stage], selector: Selector, chosen: dict[str, Selector], seed: int) -> Stage:
        """A detector's look at the last model of an arm, or at its synthetic set."""
        on = registry.get("detectors", selector.name).mark.on
        if selector.tuned:
            raise BadInput(f"{selector.text}: only a defence's options are tuned. Write an axis: [0.1,0.2].")
        call, sets = self.call("detectors", selector), [stage for stage in arm if synthetic(stage)]
        encoders = [stage for stage in arm if chosen["encoder"].name != "none" and stage.kind != "head"]
        if on == "synthetic" and not sets:
            raise BadInput(f"{selector.name} looks at a synthetic set, and condenser 'none' makes none. Name one: dm.")
        if on == "encoder" and not encoders:
            raise BadInput(f"{selector.name} looks at an encoder, and encoder 'none' makes none. Name one: simclr.")
        parents = {"synthetic": sets[-1:], "encoder": encoders[-1:]}.get(on, [arm[-1], *sets[-1:]])
        before, after = self.images(chosen["images"], seed)
        images = before if on == "encoder" else after
        recipe, options = {"detector": call, "images": images, "seed": seed}, call["options"]
        passes = float(options.get("epochs", 10) * options.get("networks", 1))
        return self.stage("detect", recipe, tuple(parents), parents[0].taint, passes=passes)

    def sift(
        self, defense: Selector, parents: tuple[Stage, ...], taint: tuple[str, ...], images: Recipe, seed: int
    ) -> Stage:
        """A defence of images: those that may stay, or what becomes of them."""
        if defense.tuned:
            raise BadInput(f"{defense.text}: a defence of images is not tuned. Write an axis: [0.1,0.2].")
        recipe = {"defense": self.call("defenses", defense), "images": images, "seed": seed}
        return self.stage("sift", recipe, parents, taint, passes=0.5)

    def transfer_set(
        self, teacher: Stage, attack: Recipe | None, defense: Selector, images: Recipe, seed: int
    ) -> list[Stage]:
        """What is done to the images of the distillation: poisoned, then sifted; usually nothing."""
        sets: list[Stage] = []
        if attack:
            recipe = {"attack": attack, "images": images, "seed": seed}
            rounds = attack["options"].get("rate", 1) * attack["options"].get("steps", 1)
            sets.append(self.stage("poison", recipe, (teacher,), (attack["name"],), passes=rounds))
        if registry.get("defenses", defense.name).mark.on == "transfer":
            taint = sets[-1].taint if sets else teacher.taint
            sets.append(self.sift(defense, (teacher, *sets), taint, images, seed))
        return sets

    def distiller(self, selector: Selector) -> tuple[Recipe, Recipe]:
        """The loss, and the options of `distill`: the budget's, the distiller's own, and what its selector changes."""
        mark = registry.get("distillers", selector.name).mark
        inner = {k: v for k, v in selector.options.items() if k in self.options["student"] or k == "warmup"}
        own = {k: v for k, v in selector.options.items() if k not in inner}
        call = self.call("distillers", Selector(selector.name, own))
        given = {**self.budget.student, **inner}
        given = {"teacher_mode": mark.teacher_mode} | ({"warmup": mark.warmup} if mark.warmup else {}) | given
        return call, resolved(f"distiller {selector.name}", given, loop, distill)

    def defense(self, suspect: Stage, selector: Selector, images: Recipe, seed: int) -> Stage:
        """A defence, or, where options are tuned, one for each candidate and a choice on validation images."""
        tuned = selector.tuned
        names, values = list(tuned), [tuned[name] for name in tuned]
        candidates = []
        for combination in itertools.product(*values):
            call = self.call("defenses", selector.fixed(**dict(zip(names, combination, strict=True))))
            recipe = {"defense": call, "images": images, "seed": seed}
            candidates.append(
                self.stage("defense", recipe, (suspect,), suspect.taint, passes=passes_of(call["options"]))
            )
        if not tuned:
            return candidates[0]
        listing = [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]
        recipe = {
            "option": ",".join(names), "candidates": listing, "within": self.study.within,
            "images": images, "seed": seed,
        }  # fmt: skip
        return self.stage("choose", recipe, (suspect, *candidates), suspect.taint, passes=len(listing) / 2)

    def predict(
        self, model: Stage, attack: Recipe | None, planted: Sequence[Stage], chosen: dict[str, Selector], seed: int,
        embed: int = 0,
    ) -> Stage:  # fmt: skip
        """Per-image predictions on the test images, clean and under the attack's trigger; or features of a few."""
        before, images = self.images(chosen["images"], seed)
        recipe: Recipe = {"attack": attack, "images": images, "seed": seed}
        if before != images and attack and not planted:
            recipe["attacked"] = before  # the attack on training data is redone on these
        parents = (model, *(stage for stage in planted if stage is not model))
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
            "clean": b.clean, "validation": b.validation, "seed": seed, **contents_of(source),
        }  # fmt: skip

    def check_budget_options(self) -> None:
        """An option in the budget that no attack, or no defence, has is a typing error."""
        for kind, given in self.shared.items():
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
            shared = self.shared.get(kind, {})
            given = {k: v for k, v in shared.items() if k in method.options} | given
            options = {k: plain(v) for k, v in method.check(given).items()}
            self.calls[at] = {"name": method.name, "options": options, "code": method.code}
            files = {k: v for option in options.values() for k, v in files_of(option, kind).items()}
            if kind == "attacks" and isinstance(options.get("trigger"), str):
                self.calls[at]["trigger_code"] = trigger_code(options["trigger"])
            if files:
                self.calls[at]["files"] = files
        return self.calls[at]

    def stage(
        self, kind: str, recipe: Recipe, parents: tuple[Stage, ...], taint: tuple[str, ...], passes: float
    ) -> Stage:
        """The stage with this recipe; one object for equal recipes."""
        key = digest([kind, recipe, [p.key for p in parents], NUMERICS])[:32]
        if key not in self.known:
            self.known[key] = Stage(kind, recipe, parents, taint, key, passes)
        return self.known[key]


def _taught(arm: Sequence[Stage]) -> Stage:
    """The model from which a student would learn: the last one before transfer set, student and defence."""
    return [stage for stage in arm if stage.kind in ("teacher", "attack", "transfer")][-1]
