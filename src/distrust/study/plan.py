"""Plan: from a study's combinations to stages with keys. Pure data; nothing is opened or trained here."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BadInput, NotFound
from ..selectors import Selector
from .builder import Builder
from .lanes import TAKES, archetypes_of, arm, lane_of, place_of
from .spec import Study
from .stages import Plan, PlannedCell, Stage


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
        _cell(builder, chosen, first_seed + i) for chosen, repeated in study.combinations() for i in range(repeated)
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


def _cell(b: Builder, chosen: dict[str, Selector], seed: int) -> PlannedCell:
    """One combination with one seed: the attacked arm, its control, and what they are scored from."""
    attack = None if chosen["attack"].name == "none" else b.call("attacks", chosen["attack"])
    place = place_of(attack)
    lane = lane_of(chosen)
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
    clean = arm(b, chosen, None, seed)
    ours = arm(b, chosen, attack, seed) if attack else clean
    planted = [s for s in ours if s.kind in ("attack", "poison")]
    if attack and place == 4:
        planted.append(archetypes_of(b, attack, clean[0]))
    seen = b.predict(ours[-1], attack, planted, chosen, seed)
    control = teacher = undefended = embed = None
    if attack:
        control = b.predict(clean[-1], attack, planted, chosen, seed)
    if attack and not lane:
        teacher = (
            b.predict(_taught(ours), attack, planted, chosen, seed),
            b.predict(_taught(clean), attack, planted, chosen, seed),
        )
    if chosen["defense"].name != "none":
        bare = arm(b, {**chosen, "defense": Selector("none")}, attack, seed)
        undefended = b.predict(bare[-1], attack, planted, chosen, seed)
    if attack and lane != "encoder" and b.study.embed and seed == b.first_seed:
        embed = b.predict(ours[-1], attack, planted, chosen, seed, embed=b.study.embed)
    found: tuple[Stage, ...] = ()
    if chosen["detector"].name != "none":
        arms = (ours, clean) if attack else (ours,)
        found = tuple(b.detect(stages, chosen["detector"], chosen, seed) for stages in arms)
    new = ("condenser", "encoder", "detector")  # axes that a cell only has if they are used
    axes = {axis: s.text for axis, s in chosen.items() if s.name != "none" or axis not in new}
    target = attack["options"]["target"] if attack else None
    return PlannedCell(axes, seed, place, target, seen, control, undefended, teacher, ours, embed, found)


def _taught(arm: Sequence[Stage]) -> Stage:
    """The model from which a student would learn: the last one before transfer set, student and defence."""
    return [stage for stage in arm if stage.kind in ("teacher", "attack", "transfer")][-1]
