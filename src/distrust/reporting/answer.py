"""The answer in at most three sentences that can be read aloud; every number behind them is in the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..intervals import TEACHER_CARRIES
from ..registry import registry
from .detection import detections
from .labels import shortened
from .rows import DOUBT, Cell, Row, given, is_teacher, maker, over_seeds
from .text import count, listing, percent
from .verdict import CLEAN_TEACHER, Standing, Verdict, comparisons, drifts, once, verdict

SPELLED_OUT = 4  # more students than this are counted
CARE = 3  # flags that are named, the most frequent first
UNKNOWN = "so nothing can be said about inheritance"
CLAUSE = {
    Verdict.YES: "inherited {}",
    Verdict.NO: "did not inherit {}",
    Verdict.DRIFT: "says the target of {} as often without its trigger",
    Verdict.UNCLEAR: "may or may not have inherited {}",
}
BESIDE = {  # how the best special defence stands beside plain fine-tuning
    Standing.BETTER: "plain fine-tuning does worse than {}",
    Standing.CHEAPER: "plain fine-tuning leaves as little ASR as {} but costs more ACC",
    Standing.AS_GOOD: "plain fine-tuning does as well as {}",
    Standing.WORSE: "plain fine-tuning does better than {}",
    Standing.UNCLEAR: "plain fine-tuning cannot be told from {}",
    Standing.ONE_RUN: "one run does not tell plain fine-tuning from {}",
    None: "plain fine-tuning was not measured",
}


def answer(cells: Sequence[Cell]) -> str:
    """Say what the student inherited, what cleans it at which price, and what not to believe.

    Args:
        cells: flat cells, as in `Report.cells`.
    """
    return " ".join(sentences(cells))


def sentences(cells: Sequence[Cell]) -> list[str]:
    """The answer as a list of one to three, the most important first."""
    cells = shortened(cells)
    measured = [row for row in over_seeds(once(cells)) if row.state == "done"]
    attacked = [row for row in measured if given(row.axes, "attack")]
    if not measured:
        lead = "Nothing was measured, so nothing can be said."
    elif not attacked:
        accs = [row.values["acc"].mean for row in measured if "acc" in row.values]
        reach = f"; the clean models reach ACC {percent(min(accs))}–{percent(max(accs))} %" if accs else ""
        lead = f"No attack was measured, {UNKNOWN}{reach}."
    else:
        lead = _inherited([row for row in attacked if not given(row.axes, "defense")])
    return [lead, *filter(None, (_cleaned(cells) if attacked else "", _doubts(cells, attacked)))]


def _inherited(rows: Sequence[Row]) -> str:
    """Which backdoors reached a student, of those that a teacher had to pass on."""
    judged = [row for row in rows if "carried" in row.values and not row.doubted]
    teachers = [row for row in judged if is_teacher(row.axes)]
    weak = [r for r in teachers if r.values["carried"].mean < TEACHER_CARRIES and r.place not in CLEAN_TEACHER]
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
    """The lead: each student where there are few, else how many and the strongest; of single runs no verdict."""
    several = not _sole(row.axes["student"] for row in students)
    ways = {row: _via(row, several) for row in students}
    found = {said: [row for row in students if verdict(row) is said] for said in Verdict}
    judged, yes = len(students) - len(found[Verdict.ONE_RUN]), len(found[Verdict.YES])
    top = min(found[Verdict.YES] or students, key=lambda row: (drifts(row), -row.values["carried"].mean))
    carried, named = top.values["carried"].mean, _called(top.axes["attack"])
    said = _sole(map(_origin, students))
    backdoor = f"the {attack} backdoor" if attack else "a backdoor"
    whose = f"{'' if named == attack else f'that of {named} '}{ways[top]}"
    if not judged:
        shown = f"at most {percent(carried)} points of {backdoor} reached a student, {whose}"
        none = carried < TEACHER_CARRIES or drifts(top)
        said += f" {f'no student showed {backdoor}' if none else shown}; single runs bear no verdict"
    elif len({*ways.values()}) == len(students) <= SPELLED_OUT:
        by = {v: listing([ways[row] for row in found[v]], "or" if v is Verdict.NO else "and") for v in CLAUSE}
        said += f" the student {', and '.join(f'{CLAUSE[v].format(backdoor)} {way}' for v, way in by.items() if way)}"
        said += f"; at most {percent(carried)} points were carried" if yes else ""
    else:
        many = count(judged, "student") + " run more than once" * (judged < len(students))
        said += f" {yes or 'none'} of {many} inherited {backdoor}{f', most of all {whose}' if yes else ''}"
    return _sentence(said)


def _cleaned(cells: Sequence[Cell]) -> str:
    """The best defence, its price, and plain fine-tuning beside it; where nothing was defended, the best detector."""
    if all(cell["defense"] == "none" for cell in cells):
        null = {name for name, mark in registry.marks("detectors").items() if mark.null}
        if not (found := [one for one in detections(cells) if _bare(one.detector) not in null]):
            return ""
        top = max(found, key=lambda one: one.auroc)
        among = f"of {len(found)} detectors" if len(found) > 1 else "the detector"
        return _sentence(f"{among} {top.detector} tells attacked from clean with an AUROC of {top.auroc:.2f}")
    if not (compared := comparisons(cells)):
        return "No backdoored model was run under every defence, so the defences cannot be compared."
    most = max(compared, key=lambda one: one.models)
    best = most.best
    under = f"Under {_called(most.against.partition(' / ')[0])}, " if most.against else ""
    under += "in one run, " if most.seeds == 1 else ""
    among = f"of {len(most.results)} defences" if len(most.results) > 1 else "the defence"
    moved = f"from {percent(most.asr)} % to {percent(best.asr.mean)} %"
    if not most.cleans:
        return _sentence(f"{under}no defence cleans: {_called(best.defense)} at best moves ASR {moved}")
    does = "leaves least" if most.seeds == 1 else "cleans best" if len(most.results) > 1 else "cleans"
    said = f"{under}{among} {_called(best.defense)} {does}: ASR falls {moved} "
    said += f"for {percent(best.cost)} points of ACC" if best.cost > 0 else "at no cost in ACC"
    if special := most.special:
        beside = most.beside(special)
        said += f"; {BESIDE[beside[1] if beside else None].format(_called(special.defense))}"
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
    through = f"through {_called(row.axes['distiller'])}" + f" into {row.axes['student']}" * several
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
