"""The answer in at most three sentences that can be read aloud; every number behind them is in the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..intervals import LEAST, TEACHER_CARRIES
from ..registry import registry
from .detection import detections
from .labels import on, shortened
from .rows import DOUBT, Cell, Row, given, is_teacher, maker, over_seeds
from .text import count, listing, percent
from .verdict import (
    CLEAN_TEACHER,
    Standing,
    Verdict,
    alike,
    carries_nothing,
    comparisons,
    drifts,
    once,
    plain,
    verdicts,
)

SPELLED_OUT = 4  # more students than this are counted
CARE = 3  # flags that are named, the most frequent first
UNKNOWN = "so nothing can be said about inheritance"
CLAUSE = {
    Verdict.YES: "inherited {}",
    Verdict.NO: "did not inherit {}",
    Verdict.DRIFT: "says the target of {} as often without its trigger",
    Verdict.UNCLEAR: "may or may not have inherited {}",
}
BESIDE = {  # how the special defence that leaves least stands beside plain fine-tuning
    Standing.BETTER: "plain fine-tuning does worse",
    Standing.AS_GOOD: "plain fine-tuning does as well",
    Standing.TRADE: "plain fine-tuning is better in one and worse in the other",
    Standing.WORSE: "plain fine-tuning does better",
    Standing.UNCLEAR: "plain fine-tuning cannot be told from it",
    None: "plain fine-tuning was not measured",
}
FEW = {1: "single runs bear no verdict", 2: "two runs bear no verdict"}


def answer(cells: Sequence[Cell]) -> str:
    """Say what the student inherited, what cleans it at which price, and what not to believe.

    Args:
        cells: flat cells, as in `Report.cells`.
    """
    return " ".join(sentences(cells))


def sentences(cells: Sequence[Cell]) -> list[str]:
    """The answer as a list of one to three, the most important first."""
    cells = shortened(cells)
    models = once(cells)
    measured = [row for row in over_seeds(models) if row.state == "done"]
    attacked = [row for row in measured if given(row.axes, "attack")]
    if not measured:
        lead = "Nothing was measured, so nothing can be said."
    elif not attacked:
        accs = [row.values["acc"].mean for row in measured if "acc" in row.values]
        reach = f"; the clean models reach ACC {percent(min(accs))}–{percent(max(accs))} %" if accs else ""
        lead = f"No attack was measured, {UNKNOWN}{reach}."
    else:
        lead = _inherited([row for row in attacked if not given(row.axes, "defense")])
    return [lead, *filter(None, (_cleaned(cells, models) if attacked else "", _doubts(cells, attacked)))]


def _inherited(rows: Sequence[Row]) -> str:
    """Which backdoors reached a student, of those that a teacher had to pass on."""
    judged = [row for row in rows if "carried" in row.values and not row.doubted]
    teachers = [row for row in judged if is_teacher(row.axes)]
    weak = [row for row in judged if carries_nothing(row)]
    unlearnt = {row.setting for row in weak}
    students = [row for row in judged if not is_teacher(row.axes) and row.setting not in unlearnt]
    name = _sole(_bare(row.axes["attack"]) for row in rows)
    if students:
        return _told(students, name)
    if not rows:
        why = "No undefended model was measured"
    elif all("control-fires" in row.flags for row in rows):
        why = f"Every {name} trigger also moves models that were never attacked"
    elif not judged:
        why = f"No {name} number can be believed"
    elif len(weak) == len(teachers):
        why = f"No teacher learnt the {name} backdoor"
    else:
        why = f"No student can be judged; {len(teachers) - len(weak)} of {len(teachers)} teachers carry the backdoor"
    return _sentence(f"{why}, {UNKNOWN}")


def _told(students: Sequence[Row], attack: str) -> str:
    """The lead: each student where there are few, else how many and the strongest; of one or two runs no verdict."""
    several = not _sole(row.axes["student"] for row in students)
    said, settings = verdicts(students), [same[0] for same in alike(students)]
    ways = {row: _via(row, several) for row in settings}
    found = {one: [row for row in settings if said[row] is one] for one in Verdict}
    judged, yes = [row for row in settings if len(row.seeds) >= LEAST], len(found[Verdict.YES])
    top = min(found[Verdict.YES] or settings, key=lambda row: (drifts(row), -row.values["carried"].mean))
    carried, named = top.values["carried"].mean, _called(top.axes["attack"])
    told = _sole(map(_origin, students))
    backdoor = f"the {attack} backdoor" if attack else "a backdoor"
    whose = f"{'' if named == attack else f'that of {named} '}{ways[top]}"
    if not judged:
        strong = sum(row.values["carried"].mean >= TEACHER_CARRIES and not drifts(row) for row in settings)
        shown = f"{strong} of {count(len(settings), 'student')} show{'s' * (strong == 1)} {backdoor}, "
        shown += f"{'most of all ' * (strong > 1)}{whose}"
        if strong in (0, len(settings)):
            shown = f"at most {percent(carried)} points of {backdoor} reached a student, {whose}"
            shown = shown if strong else f"no student showed {backdoor}"
        told += f" {shown}; {FEW[max(len(r.seeds) for r in settings)]}"
    elif len({*ways.values()}) == len(settings) <= SPELLED_OUT:
        by = {v: listing([ways[row] for row in found[v]], "or" if v is Verdict.NO else "and") for v in CLAUSE}
        told += f" the student {', and '.join(f'{CLAUSE[v].format(backdoor)} {way}' for v, way in by.items() if way)}"
        told += f"; at most {percent(carried)} points were carried" if yes else ""
    else:
        many = count(len(judged), "student") + " run three times or more" * (len(judged) < len(settings))
        told += f" {yes or 'none'} of {many} {'inherited' if yes else 'is shown to have inherited'} {backdoor}"
        told += f", most of all {whose}" if yes else ""
    return _sentence(told)


def _cleaned(cells: Sequence[Cell], models: Sequence[Cell]) -> str:
    """What is shown to clean, at which price, and plain fine-tuning beside it; without a defence, the best detector."""
    if all(cell["defense"] == "none" for cell in cells):
        null = {name for name, mark in registry.marks("detectors").items() if mark.null}
        if not (found := [one for one in detections(cells) if _bare(one.detector) not in null]):
            return ""
        top = max(found, key=lambda one: one.auroc)
        among = f"of {len(found)} detectors" if len(found) > 1 else "the detector"
        return _sentence(f"{among} {top.detector} tells attacked from clean with an AUROC of {top.auroc:.2f}")
    if not (compared := comparisons(models)):
        return "No backdoored model was run under every defence, so the defences cannot be compared."
    most = max(compared, key=lambda one: one.models)
    under = f"under {_called(most.against.partition(' / ')[0])}, " if most.against else ""
    moves = f"from {percent(most.carried)} to {{}} points"
    if most.seeds < LEAST:
        least = most.special or min(most.results, key=lambda one: one.carried.mean)
        price = f"{moves.format(percent(least.carried.mean))} for {percent(least.cost.mean)} points of ACC"
        return _sentence(f"{under}{_called(least.defense)} moves what is carried {price}; {FEW[most.seeds]}")
    clean, special = [one for one in most.results if one.cleans], most.special
    if not clean:
        least = special or min(most.results, key=lambda one: one.carried.mean)
        moved = moves.format(percent(least.carried.mean))
        return _sentence(f"{under}no defence is shown to clean: {_called(least.defense)} moves what is carried {moved}")
    best = special if special and special.cleans else min(clean, key=lambda one: one.carried.mean)
    many = f"{len(clean)} of {len(most.results)} defences clean, {_called(best.defense)} among them"
    only = f"{f'of {len(most.results)} defences only ' * (len(most.results) > 1)}{_called(best.defense)} cleans"
    said = f"{under}{many if len(clean) > 1 else only}: what is carried falls "
    said += f"{moves.format(percent(best.carried.mean))} "
    said += f"for {percent(best.cost.mean)} points of ACC" if best.cost.mean > 0 else "at no cost in ACC"
    if best is special and plain([best.defense]) not in (None, best.defense):
        said += f"; {BESIDE[best.standing if _bare(best.rival or '') == plain([best.defense]) else None]}"
    return _sentence(said)


def _doubts(cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """How many results must not be believed, what needs care, and what is not there."""
    flags = Counter(flag for row in rows for flag in row.flags)
    states = Counter(cell["state"] for cell in cells)
    wrong = listing([flag for flag in DOUBT if flags[flag]])
    care = [f"{flag} on {k}" for flag, k in flags.most_common() if flag not in (*DOUBT, "skipped")]
    parts = (
        wrong and f"not to be believed: {sum(row.doubted for row in rows)} of {len(rows)} results, flagged {wrong}",
        care and f"read with care: {listing(care[:CARE])} of {len(rows)}",
        listing([f"{count(states[state], 'cell')} {state}" for state in ("failed", "skipped") if states[state]]),
    )
    return _sentence("; ".join(part for part in parts if part))


def _sentence(words: str) -> str:
    """With a capital, a full stop and single spaces; nothing stays nothing."""
    said = " ".join(words.split())
    return f"{said[0].upper()}{said[1:]}." if said else ""


def _origin(row: Row) -> str:
    if given(row.axes, "encoder"):
        return "From a poisoned encoder,"
    if maker(row.axes):
        return "From a poisoned synthetic set," if row.place == 4 else "From poisoned condensed images,"
    return "From a clean teacher and poisoned images," if row.place in CLEAN_TEACHER else "From a backdoored teacher,"


def _via(row: Row, several: bool) -> str:
    distiller = row.axes["distiller"]
    called = on(distiller)
    through = f"through {f'{_bare(distiller)}{called}' if called else _called(distiller)}"
    through += f" into {row.axes['student']}" * several
    return f"as {row.axes['student']}" if maker(row.axes) else through


def _called(label: str) -> str:
    """A selector as one says it."""
    return label if _bare(label) == label else f"a variant of {_bare(label)}"


def _bare(label: str) -> str:
    return label.partition("[")[0]


def _sole(words: Iterable[str]) -> str:
    """What all of them are, "" if they differ."""
    found = {*words}
    return found.pop() if len(found) == 1 else ""
