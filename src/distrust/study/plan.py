"""Plan: from a study's combinations to cells and stages with keys. Pure data; nothing is opened or trained here."""

from __future__ import annotations

import contextlib
import functools
import json

from ..allowed import code_from, factories
from ..data.sources import images
from ..errors import BadInput, NotFound
from ..measurement import Backdoor, make_trigger
from ..measurement.scores import planned
from .axes import TABLE
from .calls import IMAGE_OPTIONS
from .graph import Env, Plan, PlannedCell, collect
from .pipeline import NONE, Chosen, Planner, mark_of
from .spec import Study


def make_plan(study: Study, only: str = "", first_seed: int = 0) -> Plan:
    """Check every name and option of a study and write down its stages, controls included.

    Args:
        study: what to do.
        only: plan just the cells whose id begins so.
        first_seed: seeds are first_seed, first_seed + 1, …

    Raises:
        NotFound: an unknown method, model or option, with near matches.
        BadInput: an option out of bounds, or a method that has no place in the pipeline of its combination.
    """
    with code_from():  # nothing is run here
        return _made(study, only, first_seed)


def _made(study: Study, only: str, first_seed: int) -> Plan:
    planner = Planner(study)
    seeds = range(first_seed, first_seed + study.seeds)
    cells = [
        _cell(planner, chosen, seed, seed == first_seed, repeated)
        for chosen, repeated in study.combinations()
        for seed in seeds[:repeated]
    ]
    if only:
        known = [cell.id for cell in cells]
        cells = [cell for cell in cells if cell.id.startswith(only)]
        if not cells:
            raise NotFound.among(f"cell of {study.name}", only, known)
    needed: Env = {}
    for cell in cells:
        collect(cell.needed, needed)
    options = [value for s in needed.values() for name, value in s.call["options"].items() if name != "source"]
    code = tuple(dict.fromkeys(factories(options)))
    return Plan(study, cells, {key: stage for key, stage in needed.items() if stage.kept}, code)


def look(plan: Plan) -> None:
    """Hold every trigger and target against the test images, where these are at hand, before anything is trained.

    Raises:
        BadInput: a trigger that does not fit, a target that is no class, or images that cannot be read.
    """
    seen = {}
    for cell in plan.cells:
        if planted := cell.arms["ours"].get("backdoor"):
            opened = cell.arms["ours"]["test"].call["options"]
            source = {name: opened[name] for name in ("source", "size", *IMAGE_OPTIONS) if name in opened}
            options = {name: planted.call["options"].get(name) for name in ("trigger", "target", "inset")}
            seen[json.dumps([source, options])] = source, options
    opening = functools.cache(lambda source, **options: images(source, **options).test)
    for source, options in seen.values():
        if source["source"].startswith("hub:"):
            continue  # a plan asks nobody
        with contextlib.suppress(NotFound):
            test, target = opening(**source), options["target"]
            if target is not None and not 0 <= target < len(test.classes):
                raise BadInput(f"target={target} is no class; {test.name} has 0..{len(test.classes) - 1}.")
            if isinstance(text := options["trigger"], str):
                inset = {} if options["inset"] is None else {"inset": options["inset"]}
                Backdoor(make_trigger(text, **inset), target or 0, name=text).stamp_on(test.pixels(slice(0, 1)))


def _cell(planner: Planner, chosen: Chosen, seed: int, first: bool, repeated: int) -> PlannedCell:
    """One combination with one seed: the attacked arm, its control, and what they are scored from."""
    attack, detector, ours = chosen["attack"], chosen["detector"], planner.arm(chosen, seed)
    arms = {"ours": ours}
    if attack != NONE:
        arms["control"] = control = planner.arm({**chosen, "attack": NONE}, seed)
        if "taught" in ours:
            arms["teacher"] = {**ours, "model": ours["taught"]}
            arms["teacher_control"] = {**control, "model": control["taught"]}
    if chosen["defense"] != NONE:
        arms["undefended"] = planner.arm({**chosen, "defense": NONE}, seed)
    backdoor = ours.get("backdoor")
    attacks, cleans = mark_of("attack", chosen), mark_of("defense", chosen)
    place = attacks and attacks.place
    target = backdoor.call["options"]["target"] if backdoor else None
    products = {**ours, **{f"{arm}_model": env["model"] for arm, env in arms.items() if arm != "ours"}}
    facts = {axis: selector.text for axis, selector in chosen.items()} | ({"target": target} if backdoor else {})
    wanted = planned(products.keys() | facts.keys(), place=place, on=cleans and cleans.on)
    metrics = {method.name: planner.measured(method, products, facts, seed) for method in wanted}
    looks = zip(("finding", "finding_control"), filter(None, (ours, arms.get("control"))), strict=False)
    findings = {name: planner.look(detector, env, seed) for name, env in looks} if detector != NONE else {}
    embed = None
    if backdoor and "encoder" not in ours and planner.study.embed and first:
        embed = planner.step("embed", ours, seed, most=planner.study.embed)
    axes = {axis.name: chosen[axis.name].text for axis in TABLE if axis.always or chosen[axis.name] != NONE}
    seen = {arm: planner.seen(env, backdoor, seed) for arm, env in arms.items()}
    return PlannedCell(axes, seed, place, target, cleans and cleans.on, arms, seen, metrics, findings, embed, repeated)
