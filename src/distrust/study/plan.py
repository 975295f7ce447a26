"""Plan: from a study's combinations to cells and stages with keys. Pure data; nothing is opened or trained here."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..allowed import code_from, factories
from ..data.sources import images
from ..errors import BadInput, NotFound
from ..measurement import Backdoor, make_trigger
from .axes import TABLE
from .calls import IMAGE_OPTIONS
from .graph import Env, Plan, PlannedCell, Stage, collect, named
from .pipeline import Chosen, Planner
from .spec import Study
from .words import NONE, cleaned, mark_of

BLOCK = 5000  # cells that are planned at a time; what a plan takes in memory does not grow beyond theirs


def make_plan(study: Study, only: str = "", first_seed: int = 0) -> Plan:
    """Check every name and option of a study and write down all its stages, controls included.

    Args:
        study: what to do; of more than some thousand cells, a `Grid` plans it in blocks.
        only: plan just the cells whose id begins so.
        first_seed: seeds are first_seed, first_seed + 1, …

    Raises:
        NotFound: an unknown method, model or option, with near matches.
        BadInput: an option out of bounds, or a method that has no place in the pipeline of its combination.
    """
    return Grid(study, only, first_seed).whole()


class Grid:
    """The cells of a study, counted at once and planned in blocks.

    Args:
        study: what to do.
        only: just the cells whose id begins so.
        first_seed: seeds are first_seed, first_seed + 1, …

    Raises:
        NotFound, BadInput: as `make_plan`, of what combinations alone tell.
    """

    def __init__(self, study: Study, only: str = "", first_seed: int = 0) -> None:
        self.study, self.only, self.first_seed = study, only, first_seed
        self.planner, self.cells = Planner(study), 0
        self.telling: list[Chosen] = []  # combinations of which one is legal if they all are
        told = _Told()
        for chosen, _, seeds in self.chosen():
            self.cells += len(seeds)
            if told.nothing_of(chosen):
                self.telling.append(chosen)
        if not self.cells:
            near = (f"{named(axes_of(chosen))}-s{first_seed}" for chosen, _ in study.combinations())
            raise NotFound.among(f"cell of {study.name}", only, itertools.islice(near, BLOCK))

    @property
    def large(self) -> bool:
        """It is planned in several blocks."""
        return self.cells > BLOCK

    def chosen(self) -> Iterator[tuple[Chosen, int, Sequence[int]]]:
        """Its combinations, how often each is repeated, and the seeds that were asked for."""
        for chosen, repeated in self.study.combinations():
            seeds: Sequence[int] = range(self.first_seed, self.first_seed + repeated)
            if self.only:
                begun = named(axes_of(chosen))
                seeds = [seed for seed in seeds if f"{begun}-s{seed}".startswith(self.only)]
            if seeds:
                yield chosen, repeated, seeds

    def whole(self) -> Plan:
        """The plan of all its cells; it takes some 10 kB a cell."""
        return self.plan(self.cell(chosen, seed, often) for chosen, often, seeds in self.chosen() for seed in seeds)

    def blocks(self) -> Iterator[Plan]:
        """Plans of all its cells in their order, one after the other; a stage may stand in several."""
        if not self.large:
            yield self.checked
            return
        cells: list[PlannedCell] = []
        for chosen, often, seeds in self.chosen():
            cells += [self.cell(chosen, seed, often) for seed in seeds]
            if len(cells) >= BLOCK:
                yield self.plan(cells)
                cells = []
                self.planner.forget()
        if cells:
            yield self.plan(cells)

    @functools.cached_property
    def checked(self) -> Plan:
        """Its plan or, of a large one, that of cells of which each is legal only if all are.

        Raises:
            NotFound, BadInput: as `make_plan`.
        """
        return self.plan(self.cell(one, self.first_seed) for one in self.telling) if self.large else self.whole()

    def cell(self, chosen: Chosen, seed: int, repeated: int = 1) -> PlannedCell:
        """One of its cells, of a combination that is repeated so often."""
        with code_from():  # nothing is run here
            return _cell(self.planner, chosen, seed, seed == self.first_seed, repeated)

    def plan(self, cells: Iterable[PlannedCell]) -> Plan:
        """Of some of its cells."""
        cells, needed = list(cells), Env()
        for cell in cells:
            collect(cell.needed, needed)
        calls = {id(stage.call): stage.call for stage in needed.values()}.values()
        options = [value for call in calls for name, value in call["options"].items() if name != "source"]
        code = tuple(dict.fromkeys(factories(options)))
        return Plan(self.study, cells, {key: stage for key, stage in needed.items() if stage.kept}, code)


def axes_of(chosen: Chosen) -> dict[str, str]:
    """As a cell shows them."""
    return {axis.name: chosen[axis.name].text for axis in TABLE if axis.always or chosen[axis.name] != NONE}


class _Told:
    """What planning some combinations tells of others: that each entry is known, and that what meets may meet.

    Where an arm depends on who stands on an axis, names meet; of losses, sets and networks it only matters if there is
    one.
    """

    def __init__(self) -> None:
        self.sorts: dict[str, dict[str, Any]] = {axis.name: {} for axis in TABLE}
        self.met = set[Any]()

    def nothing_of(self, chosen: Chosen) -> bool:
        """A combination has to be planned itself; once it was asked for, it is taken to be."""
        new, shape = False, list[Any]()
        for axis, selector in chosen.items():
            known, text = self.sorts[axis], selector.text
            if text not in known:
                named = axis in ("attack", "defense", "detector")
                at = str(selector.options.get("at"))  # where a defence stands
                known[text] = (selector.name, bool(selector.tuned), at) if named else (text != "none", ">" in text)
                new = True
            shape.append(known[text])
        images, attack, student, encoder = map(chosen.__getitem__, ("images", "attack", "student", "encoder"))
        meets = {tuple(shape), (images.text, attack.text), (student.text, encoder.name == "none")}
        new = new or not meets <= self.met
        self.met |= meets
        return new


def look(plan: Plan) -> None:
    """Hold every trigger, target and defender's images against the test images, before anything is trained.

    Only where these are at hand.

    Raises:
        BadInput: a trigger that does not fit, a target that is no class, a defender's images of other classes, or
            images that cannot be read.
        NotFound: a defender's images from elsewhere are not here.
    """
    seen, given = {}, {}
    for cell in plan.cells:
        source = _source(cell.arms["ours"]["test"])
        for stage in cell.final:
            if clean := stage.inputs.get("candidate0", stage).inputs.get("clean"):
                given[json.dumps([source, _source(clean)])] = source, _source(clean)
        if planted := cell.arms["ours"].get("backdoor"):
            options = {name: planted.call["options"].get(name) for name in ("trigger", "target", "inset")}
            seen[json.dumps([source, options])] = source, options
    opening = functools.cache(lambda source, **options: images(source, **options))
    for source, options in seen.values():
        if source["source"].startswith("hub:"):
            continue  # a plan asks nobody
        with contextlib.suppress(NotFound):  # what is not there is said by the stage that opens it
            test, target = opening(**source).test, options["target"]
            if target is not None and not 0 <= target < len(test.classes):
                raise BadInput(f"target={target} is no class; {test.name} has 0..{len(test.classes) - 1}.")
            if isinstance(text := options["trigger"], str):
                inset = {} if options["inset"] is None else {"inset": options["inset"]}
                Backdoor(make_trigger(text, **inset), target or 0, name=text).stamp_on(test.pixels(slice(0, 1)))
    for source, theirs in given.values():
        if theirs != source and not any(one["source"].startswith("hub:") for one in (source, theirs)):
            many = len(opening(**theirs).train.classes)
            with contextlib.suppress(NotFound):
                if many != (needed := len(opening(**source).train.classes)):
                    raise BadInput(
                        f"clean={theirs['source']} has {many} classes, and {source['source']}, whose {needed} the "
                        "defended model tells apart, others. Give images of the same classes."
                    )


def _source(stage: Stage) -> dict[str, Any]:
    """How the images of a stage are opened."""
    options = stage.call["options"]
    return {name: options[name] for name in ("source", "size", *IMAGE_OPTIONS) if name in options}


def _cell(planner: Planner, chosen: Chosen, seed: int, first: bool, repeated: int) -> PlannedCell:
    """One combination with one seed: the attacked arm, its control, and what they are scored from."""
    attack, detector, ours = chosen["attack"], chosen["detector"], planner.arm(chosen, seed)
    arms, undefended = {"ours": ours}, {**chosen, "defense": NONE}
    if attack != NONE:
        arms["control"] = control = planner.arm({**chosen, "attack": NONE}, seed)
        if "taught" in ours:
            lesson = chosen if chosen["distiller"] != NONE else undefended  # whoever a student learns from
            arms["teacher"] = {**ours, "model": planner.arm(lesson, seed)["taught"]}
            arms["teacher_control"] = {**control, "model": planner.arm({**lesson, "attack": NONE}, seed)["taught"]}
    if chosen["defense"] != NONE:
        arms["undefended"] = planner.arm(undefended, seed)
    backdoor = ours.get("backdoor")
    attacks, cleans = mark_of("attack", chosen), cleaned(chosen)
    place = attacks and attacks.place
    target = backdoor.call["options"]["target"] if backdoor else None
    products = {**ours, **{f"{arm}_model": env["model"] for arm, env in arms.items() if arm != "ours"}}
    facts = {axis: selector.text for axis, selector in chosen.items()} | ({"target": target} if backdoor else {})
    wanted = planner.wanted(frozenset({*products, *facts}), place=place, on=cleans)
    metrics = {method.name: planner.measured(method, products, facts, seed) for method in wanted}
    looks = zip(("finding", "finding_control"), filter(None, (ours, arms.get("control"))), strict=False)
    findings = {name: planner.look(detector, env, seed) for name, env in looks} if detector != NONE else {}
    embed = None
    if backdoor and "encoder" not in ours and planner.study.embed and first:
        embed = planner.step("embed", ours, seed, most=planner.study.embed)
    seen = {arm: planner.seen(env, backdoor, seed) for arm, env in arms.items()}
    return PlannedCell(axes_of(chosen), seed, place, target, cleans, arms, seen, metrics, findings, embed, repeated)
