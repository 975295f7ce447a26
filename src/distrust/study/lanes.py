"""Lanes beside the teacher's: a synthetic set and its victims, an encoder and its heads; arms as the planner asks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..errors import BadInput
from ..methods import registry
from ..pretraining import ADAM
from ..selectors import Selector
from ..training import loop
from ..views import Views
from .recipes import Recipe, model_of, resolved
from .stages import Stage

if TYPE_CHECKING:
    from .plan import Builder

DRAWN = ("archetypes_per_class", "archetype_steps", "network", "net_steps", "net_lr", "legal", "as_published")


def place_of(attack: Recipe | None) -> int | None:
    """Where an attack enters the pipeline."""
    return registry.get("attacks", attack["name"]).mark.place if attack else None


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
    recipe = {"code": drawn["code"], "options": options, "images": clean.recipe["images"], "seed": clean.recipe["seed"]}
    return b.stage("archetypes", recipe, (clean,), clean.taint, passes=float(options["net_steps"]))


def encoded(b: Builder, chosen: dict[str, Selector], attack: Recipe | None, seed: int) -> tuple[Stage, ...]:
    """One arm of an encoder: pre-training, attack on it, defence, and a head on the downstream images.

    Images "A>B": pre-training, attack and defence see A, the head B, from which an attack on
    the encoder also gets its references.
    """
    before, images = b.images(chosen["images"], seed)
    taint = (attack["name"],) if attack else ()
    first = attack if place_of(attack) == 1 else None
    options = {**ADAM, **_given(b.budget.teacher)}
    recipe = {
        **model_of(chosen["teacher"].text), "encoder": b.call("encoders", chosen["encoder"]), "attack": first,
        "options": options, "views": dataclasses.asdict(Views(**b.budget.views)), "images": before, "seed": seed,
    }  # fmt: skip
    arm = [b.stage("pretrain", recipe, (), taint if first else (), passes=2.0 * options.get("epochs", 10))]
    if attack and not first:
        recipe = {"attack": attack, "images": before, "references": images, "seed": seed}
        arm.append(b.stage("attack", recipe, (arm[-1],), taint, passes=2.0 * attack["options"].get("epochs", 1)))
    defense, on = chosen["defense"], registry.get("defenses", chosen["defense"].name).mark.on
    if defense.name != "none":
        if on != "encoder":
            raise BadInput(
                f"{defense.name} works on a {on}, and this is an encoder. Name a defence of encoders: mimic."
            )
        if defense.tuned:
            raise BadInput(f"{defense.text}: an encoder has no accuracy to tune by. Write an axis: [0.001,0.01].")
        arm.append(b.defense(arm[-1], defense, before, seed))
    recipe = {"head": b.call("heads", chosen["student"]), "images": images, "seed": seed}
    return (*arm, b.stage("head", recipe, (arm[-1],), taint, passes=0.5))


def _given(options: Recipe) -> Recipe:
    """Options of the loop that the budget names, checked; all others are the method's own."""
    return {k: v for k, v in resolved("student", options, loop).items() if k in options}
