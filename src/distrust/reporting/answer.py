"""The answer in words: what the student inherited and what cleaned it, computed from the cells alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..measurement import over_seeds as mean_and_interval
from ..measurement.scores import TEACHER_CARRIES, Interval
from . import heatmap
from .aggregate import AXES, DOUBT, SETTING, Cell, attacked, doubted, is_teacher, maker, over_seeds, varying
from .detection import detections
from .labels import shortened
from .text import count, interval, listing, percent, span

CLOSE = 0.05  # two ASRs that are no further apart are called the same
NO_WORSE = 0.01  # an ACC that is lower by no more than this is called no worse
CLEAN_TEACHER = (3, 4)  # attacks that enter behind the teacher, who is clean by design
SPELLED_OUT = 3  # with more attacks than this, they share a sentence
NAMED = 5  # attacks that it names, the strongest first
MANY = 12  # with more students than this, only the strongest attack through each distiller is named


class Cleaning(NamedTuple):
    """What a defence does to the backdoored models that every defence was run on."""

    defense: str
    asr: float
    asr_interval: Interval | None
    acc: float
    cost: float
    floored: int


def answer(cells: Sequence[Cell]) -> str:
    """Say what the student inherited, which defence cleans best at which cost, and what not to believe.

    Args:
        cells: flat cells, as in `Report.cells`.
    """
    return " ".join(sentences(cells))


def sentences(cells: Sequence[Cell]) -> list[str]:
    """The answer as a list, the most important sentence first."""
    cells = shortened(cells)
    looked_at = _once(cells)
    rows = over_seeds(looked_at)
    measured = [row for row in rows if row["state"] == "done"]
    under_attack = [row for row in measured if attacked(row)]
    if not measured:
        return ["Nothing was measured, so nothing can be said.", *_missing(cells)]
    if not under_attack:
        accs = [row["acc"] for row in measured if row["acc"] is not None]
        reach = f"; the clean models reach ACC {percent(min(accs))}–{percent(max(accs))} %" if accs else ""
        return [f"No attack was measured, so nothing can be said about inheritance{reach}.", *_missing(cells)]
    return [
        *_inheritance(under_attack),
        *_cleaning(looked_at, under_attack),
        *_detecting(cells),
        *_doubts(under_attack),
        *_missing(cells),
    ]


def _once(cells: Sequence[Cell]) -> list[Cell]:
    """Each model once, whoever looked at it: what several detectors look at is one measurement."""
    axes = [axis for axis in AXES if axis != "detector"]
    found = {(*(c.get(axis) for axis in axes), c["seed"]): {**c, "detector": None} for c in reversed(cells)}
    return list(reversed(found.values()))


def _inheritance(rows: Sequence[Cell]) -> list[str]:
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for row in rows:
        if row["defense"] == "none":
            groups.setdefault(tuple(row[axis] for axis in SETTING), []).append(row)
    if not groups:
        return ["No undefended model was measured, so nothing can be said about inheritance."]
    if len(groups) > SPELLED_OUT:
        return _counted(list(groups.values()))
    beside = varying(rows)
    names = [" / ".join([g[0]["attack"], *(str(g[0][axis]) for axis in beside)]) for g in groups.values()]
    return [_inherited(name, group) for name, group in zip(names, groups.values(), strict=True)]


def _inherited(name: str, rows: Sequence[Cell]) -> str:
    """One attack: what its teacher carries, and through which distillers that reached the student."""
    unknown = "so nothing can be said about inheritance"
    if all("control-fires" in row["flags"] for row in rows):
        return f"The {name} trigger also moves models that were never attacked (control-fires), {unknown}."
    judged = [row for row in rows if row["carried"] is not None and not doubted(row)]
    teacher = next((row for row in judged if is_teacher(row)), None)
    students = [row for row in judged if not is_teacher(row)]
    if not judged:
        return f"No {name} number can be believed (no control arm, or flagged), {unknown}."
    clean, trained = rows[0]["place"] in CLEAN_TEACHER, maker(rows[0]) is not None
    if teacher and not clean and teacher["carried"] < TEACHER_CARRIES:
        found = f"it carries {_carried(teacher)}; {_basis([teacher])}"
        return f"The {name} teacher did not learn the backdoor ({found}), {unknown}."
    if teacher and not students:
        found = f"{_carried(teacher)}; {_basis([teacher])}"
        return f"Only the {name} teacher can be judged, which carries {found}; {unknown}."
    if rows[0].get("encoder"):
        origin = f"From an encoder that {name} poisoned,"
    elif trained:
        what = "a synthetic set" if rows[0]["place"] == 4 else "condensed images"
        origin = f"From {what} that {name} poisoned,"
    elif clean:
        origin = f"Under {name}, whose teacher is clean,"
    elif teacher:
        origin = f"From the {name} teacher (carried {_carried(teacher)})"
    else:
        known = students[0]["teacher_asr"]
        found = "that could not be judged" if known is None else f"of ASR {percent(known)} %"
        origin = f"From a {name} teacher {found}"
    said: dict[str, list[str]] = {"yes": [], "no": [], "drift": [], "unclear": []}
    several = len({row["student"] for row in students}) > 1
    for row in students:
        via = " → ".join(filter(None, heatmap.column(*heatmap.model_of(row), several)))
        rate = f", carry-over {round(100 * row['carry_over']):d} %" if row["carry_over"] is not None else ""
        said[_verdict(row)].append(f"{via} ({_carried(row)}{rate})")
    how = "as" if trained else "through"
    parts = [f"inherited the backdoor {how} {listing(said['yes'])}"] if said["yes"] else []
    if said["no"]:
        parts.append(f"{'but not' if parts else 'did not inherit the backdoor'} {how} {listing(said['no'], 'or')}")
    if said["drift"]:
        lead = "and" if parts else "only"
        parts.append(f"{lead} says the target as often without the trigger {how} {listing(said['drift'])}")
    if said["unclear"]:
        lead = "and may or may not have" if parts else "may or may not have inherited the backdoor"
        parts.append(f"{lead} {how} {listing(said['unclear'])}")
    return f"{origin} the student {', '.join(parts)}; {_basis(students)}."


def _counted(groups: Sequence[Sequence[Cell]]) -> list[str]:
    """Many attacks: which backdoors each distiller passed on, the strongest first, of those that a teacher had."""
    students: dict[str, list[Cell]] = {}
    learnt = 0
    for rows in groups:
        judged = [row for row in rows if row["carried"] is not None and not doubted(row)]
        teacher = next((row for row in judged if is_teacher(row)), None)
        if teacher and teacher["carried"] < TEACHER_CARRIES and rows[0]["place"] not in CLEAN_TEACHER:
            continue
        learnt += bool(judged)
        for row in judged:
            if not is_teacher(row):
                via = f"as {row['student']}" if maker(row) else f"through {row['distiller'] or 'none'}"
                students.setdefault(via, []).append(row)
    start = f"Of {len(groups)} attacked settings, {learnt} can be judged"
    if not students:
        return [f"{start}, and none of them has a student, so nothing can be said about inheritance."]
    beside = varying([row for rows in groups for row in rows])
    heads = {"yes": "inherited", "unclear": "unclear", "drift": "as much without the trigger", "no": "not inherited"}
    many = sum(map(len, students.values())) > MANY
    parts = []
    for name, rows in students.items():
        found = {said: [row for row in rows if _verdict(row) == said] for said in heads}
        if many:
            named = [f"most: {_strongest(found['yes'], beside, 1)}"] if found["yes"] else []
            named += [f"{heads[said]}: {len(found[said])}" for said in ("unclear", "drift") if found[said]]
        else:
            named = [f"{heads[said]}: {_strongest(some, beside)}" for said, some in found.items() if some]
        parts.append(f"{name} {len(found['yes'])} of {len(rows)}" + (f" ({'; '.join(named)})" if named else ""))
    basis = _basis([row for rows in students.values() for row in rows])
    return [f"{start}. Backdoors inherited, with the points carried: {', '.join(parts)}; {basis}."]


def _strongest(rows: Sequence[Cell], beside: Sequence[str], only: int | None = None) -> str:
    """Attacks by name, with the points that each carried; of many, or if `only` so many, those that carried most."""
    ranked = sorted(rows, key=lambda row: -row["carried"])[:only]
    shown = ranked if len(ranked) <= NAMED else ranked[: NAMED - 1]
    names = [" / ".join([row["attack"], *(str(row[axis]) for axis in beside)]) for row in shown]
    named = [f"{name} {percent(row['carried'])}" for name, row in zip(names, shown, strict=True)]
    return listing([*named, *([f"{len(ranked) - len(shown)} more"] if shown != ranked else [])])


def _verdict(row: Cell) -> str:
    """Drift: more than the control says the target, but hardly more than this student says it without the trigger."""
    low, high = row["carried_interval"] or (row["carried"], row["carried"])
    if row["carried"] >= TEACHER_CARRIES and low > 0:
        return "yes" if row["asr"] - row["untriggered"] >= TEACHER_CARRIES else "drift"
    return "no" if high < TEACHER_CARRIES else "unclear"


def _cleaning(cells: Sequence[Cell], rows: Sequence[Cell]) -> list[str]:
    """Compare the defences on backdoored models that every one of them was run on, seed by seed.

    What was repeated less often than the rest would cut all others down to its seeds; it is left to the table.
    """
    backdoored = {
        _model(row)
        for row in rows
        if row["defense"] == "none" and not doubted(row) and (row["carried"] or 0) >= TEACHER_CARRIES
    }
    runs: dict[str, dict[tuple[object, ...], Cell]] = {}
    for cell in cells:
        if cell["state"] == "done" and _model(cell) in backdoored and None not in (cell["acc"], cell["asr"]):
            runs.setdefault(cell["defense"], {})[*_model(cell), cell["seed"]] = cell
    before = runs.pop("none", {})
    if not before or not runs:
        return []
    if before.keys() & set.intersection(*(set(done) for done in runs.values())):
        seeds = {name: len({key[-1] for key in done}) for name, done in runs.items()}
        often = {name: done for name, done in runs.items() if seeds[name] == max(seeds.values())}
        rare = len(runs) - len(often)
        left = f"{count(rare, 'defence')} with fewer seeds {'are' if rare > 1 else 'is'} not compared."
        return _compared(before, often) + ([left] if rare else [])
    said: list[str] = []
    beside, settings = varying(cells), {tuple(cell.get(axis) for axis in SETTING): cell for cell in before.values()}
    for setting, cell in settings.items():  # no model saw every defence: what each attack's own defences do
        own = {key: done for key, done in before.items() if tuple(done.get(axis) for axis in SETTING) == setting}
        used = {name: done for name, done in runs.items() if own.keys() & done.keys()}
        name = " / ".join([cell["attack"], *(str(cell[axis]) for axis in beside)])
        said += [f"Under {name}: {sentence[0].lower()}{sentence[1:]}" for sentence in _compared(own, used)[:1]]
    return said or ["No backdoored model was run under every defence, so the defences cannot be compared."]


def _compared(before: dict[tuple[object, ...], Cell], runs: dict[str, dict[tuple[object, ...], Cell]]) -> list[str]:
    """Which defence is best on the models that all of them were run on, and whether it is worth its name."""
    shared = [key for key in before if runs and all(key in done for done in runs.values())]
    if not shared:
        return []
    results = {name: _clean(name, [(before[key], done[key]) for key in shared]) for name, done in runs.items()}
    best = min(results.values(), key=lambda result: result.asr)
    start = math.fsum(before[key]["asr"] for key in shared) / len(shared)
    basis = f"{count(len(shared), 'backdoored model')}, {count(len({k[-1] for k in shared}), 'seed')}"
    if start - best.asr < CLOSE:
        left = f"{best.defense} at best moves ASR from {percent(start)} % to {_asr(best)}"
        return [f"No defence cleans them: {left} ({basis})."]
    credit = f"; {best.floored} flagged acc-floor count as not cleaned" if best.floored else ""
    lead = f"Of {len(results)} defences, {best.defense} cleans best" if len(results) > 1 else f"{best.defense} cleans"
    fall = f"ASR falls from {percent(start)} % to {_asr(best)}"
    price = f"for {percent(best.cost)} points of ACC" if best.cost > 0 else "at no cost in ACC"
    said = f"{lead}: {fall} {price} ({basis}{credit})."
    on_models = {name: result for name, result in results.items() if heatmap.plain([name])}
    return [said, *_against_finetuning(on_models), *_against_variants(results)]


def _clean(name: str, pairs: Sequence[tuple[Cell, Cell]]) -> Cleaning:
    """A model that the defence destroyed (acc-floor) counts with the ASR it had before: no credit."""
    by_seed: dict[object, list[float]] = {}
    for before, after in pairs:
        credited = before if "acc-floor" in after["flags"] else after
        by_seed.setdefault(after["seed"], []).append(credited["asr"])
    asr, bounds = mean_and_interval([math.fsum(values) / len(values) for values in by_seed.values()], "asr")
    acc = math.fsum(after["acc"] for _, after in pairs) / len(pairs)
    cost = math.fsum(before["acc"] for before, _ in pairs) / len(pairs) - acc
    return Cleaning(name, asr, bounds, acc, cost, sum("acc-floor" in after["flags"] for _, after in pairs))


def _against_finetuning(results: dict[str, Cleaning]) -> list[str]:
    """Whether a specialised defence is worth more than plain fine-tuning on the same models."""
    null = heatmap.plain(results)
    specials = [r for r in results.values() if r.defense != null]
    whole = [r for r in specials if "[" not in r.defense]  # an ablation such as nad[beta=0] does not stand for nad
    special = min(whole or specials, key=lambda r: r.asr, default=None)
    plain = results.get(null or "")
    if special is None:
        return []
    name = special.defense
    if plain is None:
        return [f"Plain fine-tuning was not measured, so it is not known whether {name} does more than that."]
    numbers = f"ASR {_asr(plain)} against {_asr(special)}, ACC {percent(plain.acc)} % against {percent(special.acc)} %"
    cheap = plain.acc >= special.acc - NO_WORSE
    gap = plain.asr - special.asr
    if gap < -CLOSE and cheap:
        return [f"Plain fine-tuning does better than {name}: {numbers}."]
    if gap <= CLOSE and cheap:
        return [f"Plain fine-tuning does as well as {name}: {numbers}."]
    if gap <= CLOSE:
        return [f"Plain fine-tuning leaves as little ASR as {name} but costs more ACC: {numbers}."]
    if _overlap(plain.asr_interval, special.asr_interval):
        return [f"Plain fine-tuning cannot be told from {name}, as their intervals overlap: {numbers}."]
    return [f"Plain fine-tuning does worse than {name}: {numbers}."]


def _against_variants(results: dict[str, Cleaning]) -> list[str]:
    """Whether a method is worth more than its own variants, such as NAD without its attention term."""
    said = []
    for name, whole in results.items():
        for variant in (r for r in results.values() if r.defense.startswith(f"{name}[")):
            better = "does better than" if variant.asr - whole.asr > CLOSE else "does no better than"
            numbers = f"ASR {_asr(whole)} against {_asr(variant)}, "
            numbers += f"ACC {percent(whole.acc)} % against {percent(variant.acc)} %"
            said.append(f"{name} {better} its variant {variant.defense}: {numbers}.")
    return said


def _detecting(cells: Sequence[Cell]) -> list[str]:
    """How well each detector tells the attacked from the clean."""
    said = []
    for found in detections(cells):
        told = f"AUROC {found.auroc:.2f} ({found.attacked} attacked, {count(found.clean, 'clean suspect')})"
        if found.found is not None:
            told += f", {percent(found.found)} % found and {percent(found.alarms)} % false alarms at a threshold "
            told += "that other seeds set"
        named = "" if found.named is None else f"; it names the target in {percent(found.named)} %"
        said.append(f"{found.detector} detects with {told}{named}.")
    return said


def _doubts(rows: Sequence[Cell]) -> list[str]:
    """Name what must not be believed, then count what needs care."""
    lines = []
    for flag in DOUBT:
        named = [heatmap.describe(row) for row in rows if flag in row["flags"]]
        if named:
            more = [f"{len(named) - 3} more"] if len(named) > 3 else []
            credit = ", no credit for its ASR" if flag == "acc-floor" else ""
            lines.append(f"{'; '.join([*named[:3], *more])} ({flag}{credit})")
    care: dict[str, int] = {}
    for flag in (flag for row in rows for flag in row["flags"] if flag not in (*DOUBT, "skipped")):
        care[flag] = care.get(flag, 0) + 1
    said = [f"Not to be believed: {'; '.join(lines)}."] if lines else []
    if care:
        said.append(f"Read with care: {listing([f'{flag} ({k} of {len(rows)})' for flag, k in care.items()])}.")
    return said


def _missing(cells: Sequence[Cell]) -> list[str]:
    counts = {state: sum(cell["state"] == state for cell in cells) for state in ("failed", "skipped")}
    parts = [f"{count(k, 'cell')} {'failed' if s == 'failed' else 'skipped'}" for s, k in counts.items() if k]
    return [f"{listing(parts)}; the reasons are listed below.".capitalize()] if parts else []


def _model(cell: Cell) -> tuple[object, ...]:
    return tuple(cell.get(axis) for axis in AXES if axis != "defense")


def _carried(row: Cell) -> str:
    return f"{percent(row['carried'])} points {interval(row['carried_interval'])}".strip()


def _asr(result: Cleaning) -> str:
    return f"{percent(result.asr)} % {interval(result.asr_interval)}".strip()


def _basis(rows: Sequence[Cell]) -> str:
    seeds = [len(row["seeds"]) for row in rows]
    return f"{span(seeds)} seed{'' if max(seeds) == 1 else 's'}, n = {span([row['n'] for row in rows])}"


def _overlap(one: Interval | None, other: Interval | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]
