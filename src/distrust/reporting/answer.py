"""The answer in at most three sentences that can be read aloud; every number behind them is in the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..measurement.scores import TEACHER_CARRIES
from .detection import detections
from .labels import shortened
from .rows import DOUBT, Cell, Row, given, is_teacher, maker, over_seeds
from .text import count, listing, percent
from .verdict import CLEAN_TEACHER, Standing, Verdict, comparisons, drifts, once, plain, standing, verdict

SPELLED_OUT = 4  # more students than this are counted
CARE = 3  # flags that are named, the most frequent first
UNKNOWN = "so nothing can be said about inheritance"
ORIGIN = {  # of one attack, of several
    "encoder": ("From an encoder that {} poisoned,", "From poisoned encoders,"),
    "synthetic": ("From a synthetic set that {} poisoned,", "From poisoned synthetic sets,"),
    "condensed": ("From condensed images that {} poisoned,", "From poisoned condensed images,"),
    "clean": ("Under {}, whose teacher is clean,", "Under clean teachers,"),
    "teacher": ("From the {} teacher,", "From backdoored teachers,"),
}
CLAUSE = {
    Verdict.YES: "inherited the backdoor",
    Verdict.NO: "did not inherit the backdoor",
    Verdict.DRIFT: "says the target as often without the trigger",
    Verdict.UNCLEAR: "may or may not have inherited the backdoor",
}
BESIDE = {  # how the best special defence stands beside plain fine-tuning
    Standing.BETTER: "plain fine-tuning does worse than {}",
    Standing.CHEAPER: "plain fine-tuning leaves as little ASR as {} but costs more ACC",
    Standing.AS_GOOD: "plain fine-tuning does as well as {}",
    Standing.WORSE: "plain fine-tuning does better than {}",
    Standing.UNCLEAR: "plain fine-tuning cannot be told from {}",
    Standing.ONE_RUN: "one run does not tell plain fine-tuning from {}",
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
    name = _shared(rows)
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
    several = len({row.axes["student"] for row in students}) > 1
    found = {said: [row for row in students if verdict(row) is said] for said in Verdict}
    judged = len(students) - len(found[Verdict.ONE_RUN])
    top = min(found[Verdict.YES] or students, key=lambda row: (drifts(row), -row.values["carried"].mean))
    named = _called(top.axes["attack"])
    whose = f"{'' if named == attack else f'that of {named} '}{_via(top, several)}"
    origins = {_origin(row) for row in students}
    origin = ORIGIN[origins.pop()][not attack].format(attack) if len(origins) == 1 else ""
    carried = top.values["carried"].mean
    if not judged:
        shown = f"at most {percent(carried)} points of a backdoor reached a student, {whose}"
        if carried < TEACHER_CARRIES or drifts(top):
            shown = "no backdoor was seen in a student"
        return _sentence(f"{origin} {shown}; single runs bear no verdict")
    if len({_via(row, several) for row in students}) == len(students) <= SPELLED_OUT:
        parts = []
        for said, rows in found.items():
            if rows and said is not Verdict.ONE_RUN:
                via = listing([_via(row, several) for row in rows], "or" if said is Verdict.NO else "and")
                parts.append(
                    f"{CLAUSE[said]} {via}{f', carrying up to {percent(carried)} points' * (said is Verdict.YES)}"
                )
        return _sentence(f"{origin} the student {', and '.join(parts)}")
    yes, ran = len(found[Verdict.YES]), " run more than once" if judged < len(students) else ""
    most = f", most of all {whose}" if yes else ""
    return _sentence(f"{origin} {yes or 'none'} of {count(judged, 'student')}{ran} inherited the backdoor{most}")


def _cleaned(cells: Sequence[Cell]) -> str:
    """The best defence, its price, and plain fine-tuning beside it; where nothing was defended, the best detector."""
    if all(cell["defense"] == "none" for cell in cells):
        found = sorted(detections(cells), key=lambda one: -one.auroc)
        among = f"of {len(found)} detectors" if len(found) > 1 else "the detector"
        return _sentence(
            f"{among} {found[0].detector} tells attacked from clean with an AUROC of {found[0].auroc:.2f}"
            if found
            else ""
        )
    if not (compared := comparisons(cells)):
        return "No backdoored model was run under every defence, so the defences cannot be compared."
    most = max(compared, key=lambda one: one.models)
    best, special = most.best, most.special
    under = f"Under {_called(most.against.partition(' / ')[0])}, " if most.against else ""
    under += "in one run, " if most.seeds == 1 else ""
    among = f"of {len(most.results)} defences" if len(most.results) > 1 else "the defence"
    price = f"for {percent(best.cost)} points of ACC"
    moved = f"from {percent(most.asr)} % to {percent(best.asr.mean)} %"
    if not most.cleans:
        return _sentence(f"{under}no defence cleans: {_called(best.defense)} at best moves ASR {moved}")
    does = "leaves least" if most.seeds == 1 else "cleans best" if len(most.results) > 1 else "cleans"
    said = f"{under}{among} {_called(best.defense)} {does}: ASR falls {moved} "
    said += price if best.cost > 0 else "at no cost in ACC"
    if special:
        null = most.result(plain(result.defense for result in most.results))
        beside = BESIDE[standing(special, null)].format(_called(special.defense)) if null else ""
        said += f"; {beside or 'plain fine-tuning was not measured'}"
    return _sentence(said)


def _doubts(cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """How many results must not be believed, what needs care, and what is not there."""
    flags = Counter(flag for row in rows for flag in row.flags)
    wrong, parts = [flag for flag in DOUBT if flags[flag]], []
    if wrong:
        parts.append(
            f"not to be believed: {sum(r.doubted for r in rows)} of {len(rows)} results, flagged {listing(wrong)}"
        )
    care = [(flag, k) for flag, k in flags.most_common() if flag not in (*DOUBT, "skipped")]
    if care:
        parts.append(f"read with care: {listing([f'{flag} on {k}' for flag, k in care[:CARE]])} of {len(rows)}")
    states = Counter(cell["state"] for cell in cells)
    gone = [f"{count(states[state], 'cell')} {state}" for state in ("failed", "skipped") if states[state]]
    return _sentence("; ".join([*parts, *([listing(gone)] if gone else [])]))


def _sentence(words: str) -> str:
    """With a capital, a full stop and single spaces; nothing stays nothing."""
    said = " ".join(words.split())
    return f"{said[0].upper()}{said[1:]}." if said else ""


def _origin(row: Row) -> str:
    if given(row.axes, "encoder"):
        return "encoder"
    if maker(row.axes):
        return "synthetic" if row.place == 4 else "condensed"
    return "clean" if row.place in CLEAN_TEACHER else "teacher"


def _via(row: Row, several: bool) -> str:
    if maker(row.axes):
        return f"as {row.axes['student']}"
    return f"through {_called(row.axes['distiller'])}" + (f" into {row.axes['student']}" if several else "")


def _called(label: str) -> str:
    """A selector as one says it."""
    name = label.partition("[")[0]
    return name if name == label else f"a variant of {name}"


def _shared(rows: Iterable[Row]) -> str:
    """The name of the attack, "" if there are several."""
    names = {row.axes["attack"].partition("[")[0] for row in rows}
    return names.pop() if len(names) == 1 else ""
