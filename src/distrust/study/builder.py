"""Builder: each stage once, with every option resolved; what the lanes are built of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..errors import BadInput, NotFound
from ..registry import registry
from ..selectors import Selector
from ..training import distill
from .recipes import Recipe, contents_of, digest, files_of, passes_of, plain, resolved, trigger_version
from .spec import Budget, Study
from .stages import Stage, synthetic

IMAGE_OPTIONS = ("size", "channels", "group")
NUMERICS = 1  # raise it when the core's numbers change: every key changes with it


class Builder:
    """Builds each stage once; equal recipes are the same stage."""

    def __init__(self, study: Study, first_seed: int = 0) -> None:
        self.study, self.budget, self.first_seed = study, study.budgets[study.budget], first_seed
        b = self.budget
        self.shared = {
            "attacks": b.attack, "condensers": b.condenser, "objectives": b.encoder, "heads": b.head,
            "defenses": b.defense, "detectors": b.detector,
        }  # fmt: skip
        self.known: dict[str, Stage] = {}
        self.calls: dict[tuple[str, str], Recipe] = {}
        self.options = {
            "teacher": resolved("teacher", self.budget.teacher),
            "transfer": resolved("transfer", self.budget.transfer),
            "student": resolved("student", self.budget.student, distill),
        }

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
        return call, resolved(f"distiller {selector.name}", given, distill)

    def defense(self, suspect: Stage, selector: Selector, images: Recipe, seed: int) -> Stage:
        """A defence, or, where options are tuned, one for each candidate and a choice on validation images."""
        selector, own = self._share(selector, images)
        tuned = selector.tuned
        names, values = list(tuned), [tuned[name] for name in tuned]
        candidates = []
        for combination in itertools.product(*values):
            call = self.call("defenses", selector.fixed(**dict(zip(names, combination, strict=True))))
            recipe = {"defense": call, "images": own, "seed": seed}
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

    def _share(self, selector: Selector, images: Recipe) -> tuple[Selector, Recipe]:
        """`clean` in a defence's selector is no option of the method but the share of images that it gets.

        Raises:
            BadInput: no share, or a larger one than is held for defenders.
        """
        share = selector.options.get("clean")
        if share is None or "clean" in registry.get("defenses", selector.name).options:
            return selector, images
        held: float = images["held"] if "held" in images else images["clean"]
        if not isinstance(share, int | float) or not 0 < share <= held:
            raise BadInput(
                f"{selector.text}: clean is a share of the training split, of which {held:g} is held for defenders. "
                f"Give at most that, or a budget with more: held = {share}."
            )
        own = {name: value for name, value in selector.options.items() if name != "clean"}
        return Selector(selector.name, own), {**images, "clean": share, "held": held}

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
        if b.held and b.held < b.clean:
            raise BadInput(f"held = {b.held} is less than clean = {b.clean}, which is drawn from it. Raise held.")
        held = {"held": b.held} if b.held else {}
        return {
            "source": source, "size": b.size, **selector.options, "train": b.train, "test": b.test,
            "clean": b.clean, **held, "validation": b.validation, "seed": seed, **contents_of(source),
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
            self.calls[at] = {"name": method.name, "options": options, "version": method.version}
            files = {k: v for option in options.values() for k, v in files_of(option, kind).items()}
            if kind == "attacks" and isinstance(options.get("trigger"), str):
                self.calls[at]["trigger_version"] = trigger_version(options["trigger"])
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
