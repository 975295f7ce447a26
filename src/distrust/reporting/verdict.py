"""Verdicts: what a student inherited, and which defence is worth its name; each by one rule.

A verdict is a claim from three runs or more. Of all the claims of one kind on a page at most one in twenty may be
false (`intervals.claimed`), so one row and forty are judged alike; settings that gave the same numbers count once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from statistics import fmean
from typing import Any, NamedTuple

from ..intervals import LEAST, RATE, TEACHER_CARRIES, chance_above, chance_below, claimed
from ..registry import registry
from ..selectors import Selector
from .labels import read
from .rows import (
    NAMES,
    Cell,
    Estimate,
    Row,
    finite,
    given,
    is_teacher,
    label,
    on_axes,
    on_test,
    over_seeds,
    varying,
)

Runs = dict[tuple[Any, ...], Cell]  # model and seed → cell
Seeds = Mapping[int, float]  # seed → a number

MODEL = tuple(name for name in NAMES if name != "defense")
CLOSE = 0.05  # two defences that leave no further apart of what is carried leave the same
NO_WORSE = 0.01  # an ACC that is lower by less is called no worse
CLEAN_TEACHER = (3, 4)  # attacks that enter behind the teacher, who is clean by design
PLAIN = {"classifier": "finetune", "encoder": "finetune_ssl"}  # what a defence of models must beat


class Verdict(StrEnum):
    """What a student did with the backdoor."""

    YES = "inherited"
    NO = "not inherited"
    DRIFT = "as much without the trigger"
    UNCLEAR = "unclear"
    ONE_RUN = "one run"
    TWO_RUNS = "two runs"


class Standing(StrEnum):
    """Of a defence beside another on the same models."""

    BETTER = "better"
    AS_GOOD = "as good"
    TRADE = "less carried or more ACC, not both"
    WORSE = "worse"
    UNCLEAR = "cannot be told"
    FEW = "too few runs"


class Cleaning(NamedTuple):
    """What a defence does to the backdoored models that all the compared defences were run on."""

    defense: str
    carried: Estimate  # what is left
    cost: Estimate  # of ACC
    acc: float
    floored: int  # models that it destroyed (acc-floor), which count as not cleaned
    cleans: bool | None  # it is shown to take 5 points or more of what is carried; None: too few runs
    rival: str | None  # what it has to beat: its own whole method, or plain fine-tuning
    standing: Standing | None  # beside that
    less: Estimate | None  # carried, minus the rival's, pair by pair
    more: Estimate | None  # ACC, likewise


class Comparison(NamedTuple):
    """Defences on the same backdoored models, seed by seed."""

    against: str  # the attack, where the defences of another are compared apart
    models: int
    seeds: int
    carried: float  # before
    results: list[Cleaning]
    rare: int  # defences with fewer seeds, which are not compared

    @property
    def frontier(self) -> list[Cleaning]:
        """Those beside which nothing leaves less and costs no more, on average; null rows and few runs win nothing."""
        points = {(one.carried.mean, one.cost.mean) for one in self.results}
        return [
            one
            for one in self.results
            if self.seeds >= LEAST
            and not _is_null(one.defense)
            and not any(
                left <= one.carried.mean and cost <= one.cost.mean
                for left, cost in points - {(one.carried.mean, one.cost.mean)}
            )
        ]

    @property
    def special(self) -> Cleaning | None:
        """The defence that leaves least and is no null row; an ablation only where no whole method is."""
        own = [one for one in self.results if not _is_null(one.defense)]
        whole = [one for one in own if "[" not in one.defense]  # nad[beta=0] does not stand for nad
        return min(whole or own, key=lambda one: one.carried.mean, default=None)

    def result(self, defense: str | None) -> Cleaning | None:
        """Of a defence, None where it is not compared."""
        return next((result for result in self.results if result.defense == defense), None)


def verdicts(rows: Iterable[Row]) -> dict[Row, Verdict]:
    """Judge the students that nobody defended; those that a flag forbids to believe are left out.

    So are those whose teacher carries less than 5 points itself: nothing was there to inherit.

    Inherited: carried is at least 5 points, and shown to be above 0, unless the student says the target nearly as often
    (within 5 points) without the trigger, which is drift. Not inherited: carried is shown to be below 5 points. Else it
    is unclear. Shown means: by a t-test over three seeds or more, of all these rows at a false discovery rate of 5 %.
    """
    judged = [r for r in rows if "carried" in r.values and not r.doubted and not given(r.axes, "defense")]
    unlearnt = {row.setting for row in judged if carries_nothing(row)}
    judged = [row for row in judged if not is_teacher(row.axes) and not (unlearnt and row.setting in unlearnt)]
    runs = {row: row.values["carried"].values for row in judged}
    found = {row: Verdict.ONE_RUN if len(runs[row]) == 1 else Verdict.TWO_RUNS for row in judged}
    settings = alike([row for row in judged if len(runs[row]) >= LEAST])
    above = claimed([chance_above(runs[same[0]]) for same in settings])
    below = claimed([chance_below(runs[same[0]], TEACHER_CARRIES) for same in settings])
    for same, yes, no in zip(settings, above, below, strict=True):
        inherited = yes and same[0].values["carried"].mean >= TEACHER_CARRIES
        for row in same:
            claim = Verdict.DRIFT if drifts(row) else Verdict.YES
            found[row] = claim if inherited else Verdict.NO if no else Verdict.UNCLEAR
    return found


def carries_nothing(row: Row) -> bool:
    """A teacher that did not learn the backdoor, where it is the teacher who should have."""
    return is_teacher(row.axes) and row.values["carried"].mean < TEACHER_CARRIES and row.place not in CLEAN_TEACHER


def alike(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by what was measured: variants that gave the same numbers for every seed are one setting.

    A rate of 0.02 and one of 0.05 are the same image, of ten.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        bare = [text.partition("[")[0] for text in row.axes.values()]
        said = (row.values.get(name) for name in ("acc", "asr", "carried"))
        groups.setdefault((*bare, row.place, *row.seeds, *said), []).append(row)
    return list(groups.values())


def drifts(row: Row) -> bool:
    """More than the control says the target, but hardly more than this student says it without the trigger."""
    asr, untriggered = row.mean("asr"), row.mean("untriggered")
    return asr is not None and untriggered is not None and asr - untriggered < TEACHER_CARRIES


def standing(less: Estimate, more: Estimate, shown: Sequence[bool]) -> Standing:
    """Judge a defence beside another from paired differences; `shown` says which of the two are shown to be there.

    They differ in what they leave, if that is shown and 5 points or more, and in ACC, if that is shown and 1 point or
    more. As good: what they leave is within 5 points, by its interval of 90 %, and their ACC within 1 on average.
    """
    if len(less.values) < LEAST:
        return Standing.FEW
    cleaner = shown[0] and abs(less.mean) >= CLOSE and (1 if less.mean < 0 else -1)
    dearer = shown[1] and abs(more.mean) >= NO_WORSE and (1 if more.mean < 0 else -1)
    same = max(chance_below(less.values, CLOSE), chance_above(less.values, -CLOSE)) <= RATE
    if cleaner:
        return Standing.TRADE if cleaner == dearer else Standing.BETTER if cleaner > 0 else Standing.WORSE
    if same and dearer:
        return Standing.WORSE if dearer > 0 else Standing.BETTER
    return Standing.AS_GOOD if same and abs(more.mean) < NO_WORSE else Standing.UNCLEAR


def plain(defenses: Iterable[str]) -> str | None:
    """The fine-tuning beside which such defences stand; None where all of them work on images."""
    known = registry.marks("defenses")
    bare = [text.partition("[")[0] for text in defenses if text != "none"]
    works_on = [known[name].on if name in known else "classifier" for name in bare]
    return next((PLAIN[on] for on in works_on if on in PLAIN), None)


def _is_null(defense: str) -> bool:
    mark = registry.marks("defenses").get(defense.partition("[")[0])
    return mark is not None and mark.null


def comparisons(cells: Sequence[Cell]) -> list[Comparison]:
    """Compare the defences on backdoored models that every one of them was run on, seed by seed.

    What was repeated less often than the rest would cut all others down to its seeds; it is left to the table. Where no
    model saw every defence, each attack's own are compared.

    Args:
        cells: flat cells, as in `Report.cells`.
    """
    cells = once(cells)
    rows = over_seeds([cell for cell in cells if given(cell, "attack") and not given(cell, "defense")])
    weighed = [row.axes for row in rows if not row.doubted and (row.mean("carried") or 0) >= TEACHER_CARRIES]
    backdoored = set(on_axes(weighed, MODEL))
    runs: dict[str, Runs] = {}
    for cell, model in zip(cells, on_axes(cells, MODEL), strict=True):
        usable = cell["state"] == "done" and not on_test(cell) and finite(cell["acc"]) and finite(cell["carried"])
        weak = "attack-weak" in cell["flags"]  # there was too little to clean: no credit
        if usable and not weak and model in backdoored:
            runs.setdefault(cell["defense"], {})[*model, cell["seed"]] = cell
    before = runs.pop("none", {})
    if before.keys() & set.intersection(*(set(done) for done in runs.values()), set(before)):
        return _compared("", before, runs)
    beside, apart = varying(cells), dict[str, Runs]()
    for key, cell in before.items():
        apart.setdefault(label(cell, beside), {})[key] = cell
    return [one for name, own in apart.items() for one in _compared(name, own, runs)]


def once(cells: Sequence[Cell]) -> Sequence[Cell]:
    """Each model once, whoever looked at it: what several detectors look at is one measurement."""
    if not any(given(cell, "detector") for cell in cells):
        return cells
    names = [name for name in (*NAMES, "seed") if name != "detector"]
    found = dict(zip(on_axes(reversed(cells), names), reversed(cells), strict=True))
    return [{**cell, "detector": None} if given(cell, "detector") else cell for cell in reversed(found.values())]


def _compared(against: str, before: Runs, runs: dict[str, Runs]) -> list[Comparison]:
    seeds = {name: len({key[-1] for key in done.keys() & before.keys()}) for name, done in runs.items()}
    often = {name: runs[name] for name, many in seeds.items() if many == max(seeds.values()) > 0}
    shared = [key for key in before if often and all(key in done for done in often.values())]
    if not shared:
        return []
    pairs = {name: [(before[key], done[key]) for key in shared] for name, done in often.items()}
    carried = fmean(before[key]["carried"] for key in shared)
    rare = sum(many > 0 for many in seeds.values()) - len(often)
    return [Comparison(against, len(shared), len({key[-1] for key in shared}), carried, _cleanings(pairs), rare)]


def _cleanings(pairs: Mapping[str, Sequence[tuple[Cell, Cell]]]) -> list[Cleaning]:
    """Each defence by the models before and after it, beside the rival that it has among the others."""
    left, taken, cost = ({name: each(some) for name, some in pairs.items()} for each in (_left, _taken, _cost))
    rivals = {name: rival for name in pairs if (rival := _rival(name, pairs)) is not None}
    less = {a: Estimate.of([left[a][s] - left[b][s] for s in left[a]]) for a, b in rivals.items()}
    more = {a: Estimate.of([cost[b][s] - cost[a][s] for s in cost[a]]) for a, b in rivals.items()}
    many = len(next(iter(left.values())))
    cleans: dict[str, bool] = {}
    shown: dict[str, list[bool]] = {}
    if many >= LEAST:
        cleans = dict(zip(pairs, claimed([chance_above([*taken[name].values()]) for name in pairs]), strict=True))
        told = iter(claimed([_either(gap[name].values) for name in rivals for gap in (less, more)]))
        shown = {name: [next(told), next(told)] for name in rivals}
    return [
        Cleaning(
            name, Estimate.of([*left[name].values()]), Estimate.of([*cost[name].values()]),
            fmean(after["acc"] for _, after in some), sum(map(_destroyed, some)),
            cleans[name] and fmean(taken[name].values()) >= CLOSE if cleans else None, rivals.get(name),
            standing(less[name], more[name], shown.get(name, ())) if name in rivals else None,
            less.get(name), more.get(name),
        )
        for name, some in pairs.items()
    ]  # fmt: skip


def _rival(name: str, defenses: Iterable[str]) -> str | None:
    """What a defence has to beat: a variant its whole method, a method plain fine-tuning on the same images."""
    bare = name.partition("[")[0]
    if bare != name and bare in defenses:
        return bare
    usual = plain([name]) or ""
    alike = Selector(usual, {k: v for k, v in read(name).options.items() if k in ("clean", "at")}).text
    return next((rival for rival in (alike, usual) if rival != name and rival in defenses), None)


def _either(values: Sequence[float]) -> float:
    """The chance of runs so far from 0 on either side."""
    return min(1.0, 2 * min(chance_above(values), chance_below(values)))


def _destroyed(pair: tuple[Cell, Cell]) -> bool:
    return "acc-floor" in pair[1]["flags"]


def _left(pairs: Sequence[tuple[Cell, Cell]]) -> Seeds:
    """What is carried still; a model that the defence destroyed counts with what it carried before: no credit."""
    return _by_seed(pairs, lambda pair: pair[0 if _destroyed(pair) else 1]["carried"])


def _taken(pairs: Sequence[tuple[Cell, Cell]]) -> Seeds:
    return _by_seed(pairs, lambda pair: 0.0 if _destroyed(pair) else pair[0]["carried"] - pair[1]["carried"])


def _cost(pairs: Sequence[tuple[Cell, Cell]]) -> Seeds:
    return _by_seed(pairs, lambda pair: pair[0]["acc"] - pair[1]["acc"])


def _by_seed(pairs: Sequence[tuple[Cell, Cell]], number: Callable[[tuple[Cell, Cell]], float]) -> Seeds:
    """The mean over models, seed by seed."""
    found: dict[int, list[float]] = {}
    for pair in pairs:
        found.setdefault(pair[1]["seed"], []).append(number(pair))
    return {seed: fmean(values) for seed, values in found.items()}
