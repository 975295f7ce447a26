"""Lanes: a teacher and its student, a synthetic set and its victims, an encoder and its heads."""

from __future__ import annotations

import dataclasses

from ..data import Views
from ..errors import BadInput
from ..registry import registry
from ..selectors import Selector
from ..training.pretrain import ADAM
from .builder import Builder
from .recipes import Recipe, model_of, passes_of, resolved
from .stages import Stage

TAKES: dict[str, tuple[int | None, ...]] = {"condenser": (None, 1, 4), "encoder": (None, 1, 5), "": (None, 1, 2, 3)}
UNLIKE = ("optimizer", "lr", "weight_decay", "schedule", "batch_size")  # in which pre-training differs from `fit`
CANDIDATES = 50  # images of the target class among which an attacker of an encoder looks for typical ones
DRAWN = ("archetypes_per_class", "archetype_steps", "network", "net_steps", "net_lr", "legal", "as_published")


def place_of(attack: Recipe | None) -> int | None:
    """Where an attack enters the pipeline."""
    return registry.get("attacks", attack["name"]).mark.place if attack else None


def arm(b: Builder, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
    """The stages that lead to a measured model, in the lane that the axes choose; the control arm has no attack."""
    lane = {"condenser": condensed, "encoder": encoded, "": taught}[lane_of(chosen)]
    return lane(b, chosen, attack, seed)


def lane_of(chosen: dict[str, Selector]) -> str:
    """The axis that replaces the teacher, or ""."""
    return next((axis for axis in TAKES if axis and chosen[axis].name != "none"), "")


def taught(b: Builder, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
    """One arm of a teacher: attack on it, transfer, transfer set, student, defence."""
    before, images = b.images(chosen["images"], seed)
    options, place = b.options["teacher"], place_of(attack)
    taint = (attack["name"],) if attack else ()
    teacher = {
        **model_of(chosen["teacher"].text), "attack": attack if place == 1 else None,
        "options": options, "images": before, "seed": seed,
    }  # fmt: skip
    arm = [b.stage("teacher", teacher, (), taint if place == 1 else (), passes=options["epochs"])]
    if place == 2:
        assert attack
        recipe = {"attack": attack, "images": before, "seed": seed}
        arm.append(b.stage("attack", recipe, (arm[-1],), taint, passes=passes_of(attack["options"])))
    if images != before:
        options = b.options["transfer"]
        recipe = {"options": options, "images": images, "seed": seed}
        arm.append(b.stage("transfer", recipe, (arm[-1],), arm[-1].taint, passes=options["epochs"]))
    defense = chosen["defense"]
    on = registry.get("defenses", defense.name).mark.on
    if on == "synthetic":
        raise BadInput(f"{defense.name} works on a synthetic set, and condenser 'none' makes none. Name one: dm.")
    if on == "encoder":
        raise BadInput(f"{defense.name} works on an encoder, and encoder 'none' makes none. Name one: simclr.")
    if chosen["distiller"].name != "none":
        sets = b.transfer_set(arm[-1], attack if place == 3 else None, defense, images, seed)
        call, options = b.distiller(chosen["distiller"])
        student = {
            **model_of(chosen["student"].text), "distiller": call, "options": options, "images": images,
            "seed": seed,
        }  # fmt: skip
        parents = (arm[-1], *sets[-1:])
        arm += [*sets, b.stage("student", student, parents, taint, passes=1.4 * options["epochs"])]
    elif on == "transfer":
        raise BadInput(f"{defense.name} sifts a transfer set, and distiller 'none' has none. Name a distiller: kd.")
    if defense.name != "none" and on != "transfer":
        arm.append(b.defense(arm[-1], defense, images, seed))
    return tuple(arm)


def condensed(b: Builder, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
    """One arm without a teacher: images condensed, the set poisoned, a network trained on it, defence."""
    images, _ = b.images(chosen["images"], seed)
    if ">" in chosen["images"].name:
        raise BadInput(f"images {chosen['images'].text!r} move a teacher, and a condenser has none. Name one set.")
    taint = (attack["name"],) if attack else ()
    first = attack if place_of(attack) == 1 else None
    call = b.call("condensers", chosen["condenser"])
    each, seen = call["options"]["images_per_class"], call["options"].get("batch_real", 0)
    recipe = {"condenser": call, "attack": first, "images": images, "seed": seed}
    rounds = call["options"].get("iterations", 0) * (call["options"].get("outer") or 1)
    arm = [b.stage("condense", recipe, (), taint if first else (), passes=rounds * (each + 0.4 * seen))]
    if attack and not first:
        steps = attack["options"].get("outer", 0) * attack["options"].get("steps", 0)
        recipe = {"attack": attack, "images": images, "seed": seed}
        arm.append(b.stage("poison", recipe, (arm[-1],), taint, passes=2.0 * steps * each))
    options = _given(b.budget.student)
    defense = chosen["defense"]
    on = registry.get("defenses", defense.name).mark.on
    if on in ("transfer", "encoder"):
        asks = "asks a teacher about a transfer set" if on == "transfer" else "works on an encoder"
        raise BadInput(f"{defense.name} {asks}, and a condenser has none.")
    if on == "synthetic":
        arm.append(b.sift(defense, (arm[-1],), arm[-1].taint, images, seed))
    victim = {**model_of(chosen["student"].text), "options": options, "images": images, "seed": seed}
    epochs = options.get("epochs", 1000)
    arm.append(b.stage("victim", victim, (arm[-1],), taint, passes=epochs * each))
    if defense.name != "none" and on != "synthetic":
        arm.append(b.defense(arm[-1], defense, images, seed))
    return tuple(arm)


def archetypes_of(b: Builder, attack: Recipe, clean: Stage) -> Stage:
    """The images that Poisoned Distillation aims with, drawn as it draws them; those of `attack`, if it draws any."""
    drawn = b.call("attacks", Selector("poisoned_distillation"))
    options = {name: attack["options"].get(name, drawn["options"][name]) for name in DRAWN}
    recipe = {
        "version": drawn["version"],
        "options": options,
        "images": clean.recipe["images"],
        "seed": clean.recipe["seed"],
    }
    return b.stage("archetypes", recipe, (clean,), clean.taint, passes=float(options["net_steps"]))


def encoded(b: Builder, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
    """One arm of an encoder: pre-training, attack on it, defence, and a head on the downstream images.

    Images "A>B": pre-training, attack and defence see A, the head B, from which an attack on
    the encoder also gets its references.
    """
    before, images = b.images(chosen["images"], seed)
    taint = (attack["name"],) if attack else ()
    first = attack if place_of(attack) == 1 else None
    options = {**{name: getattr(ADAM, name) for name in UNLIKE}, **_given(b.budget.teacher)}
    recipe = {
        **model_of(chosen["teacher"].text), "encoder": b.call("objectives", chosen["encoder"]), "attack": first,
        "options": options, "views": dataclasses.asdict(Views(**b.budget.views)), "images": before, "seed": seed,
    }  # fmt: skip
    arm = [b.stage("pretrain", recipe, (), taint if first else (), passes=2.0 * options.get("epochs", 10))]
    if attack and not first:
        recipe = {"attack": attack, "images": before, "references": images, "candidates": CANDIDATES, "seed": seed}
        arm.append(b.stage("attack", recipe, (arm[-1],), taint, passes=2.0 * attack["options"].get("epochs", 1)))
    defense, mark = chosen["defense"], registry.get("defenses", chosen["defense"].name).mark
    if defense.name != "none":
        if mark.on != "encoder":
            raise BadInput(
                f"{defense.name} works on a {mark.on}, and this is an encoder. Name a defence of encoders: mimic."
            )
        if defense.tuned:
            raise BadInput(f"{defense.text}: an encoder has no accuracy to tune by. Write an axis: [0.001,0.01].")
        arm.append(b.defense(arm[0 if mark.blind else -1], defense, before, seed))
    recipe = {"head": b.call("heads", chosen["student"]), "images": images, "seed": seed}
    return (*arm, b.stage("head", recipe, (arm[-1],), arm[-1].taint, passes=0.5))


def _given(options: Recipe) -> Recipe:
    """Options of the loop that the budget names, checked; all others are the method's own."""
    return {k: v for k, v in resolved("student", options).items() if k in options}
