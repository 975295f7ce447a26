"""Scoring: a plan's cells from stored predictions; scored again without running anything again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ..measurement import Finding, Seen, score
from ..registry import registry
from ..selectors import parse_one
from .cells import Cell
from .codecs import TENSORS
from .graph import Env, Plan, PlannedCell, Stage
from .origin import chosen_on_test
from .protocol import breaches
from .records import Damaged, Record
from .runner import Outcome
from .store import Store


def score_cells(plan: Plan, store: Store, outcome: Outcome) -> list[Cell]:
    """Score every planned cell from what the store has; cells without predictions carry their error."""
    reader, off = _Reader(store, outcome.records), breaches(plan.study, plan.cells)
    return [_cell(planned, plan, reader, planned.id in off) for planned in plan.cells]


class _Reader:
    """Reads each stage's predictions once."""

    def __init__(self, store: Store, records: dict[str, Record]) -> None:
        self.store, self.records = store, dict(records)
        self.said: dict[str, dict[str, Tensor]] = {}
        self.damaged: dict[str, str] = {}

    def done(self, stage: Stage | None) -> Record | None:
        """The record of a stage that was carried out."""
        record = self.records.get(stage.key) if stage else None
        return record if record and record["state"] == "done" else None

    def choice(self, stages: Env) -> Record:
        """What was chosen among candidates on the way to a model: the option, and the accuracies by which."""
        records = (self.records.get(key, {}) for key, stage in stages.items() if stage.kind == "choose")
        return next((record["notes"] for record in records if "notes" in record), {})

    def predictions(self, stage: Stage) -> dict[str, Tensor] | None:
        if stage.key not in self.said and self.done(stage):
            try:
                tensors = self.store.tensors(stage.key, TENSORS)
                self.said[stage.key] = {name: value.long() for name, value in tensors.items()}
            except Damaged as error:  # since the run looked at it
                del self.records[stage.key]
                self.damaged[stage.key] = str(error)
        return self.said.get(stage.key)

    def seen(self, clean: Stage, triggered: Stage | None) -> Seen | None:
        """What an arm's model said, if all of it is there."""
        said, attacked = self.predictions(clean), self.predictions(triggered) if triggered else None
        if said is None or (triggered and attacked is None):
            return None
        return Seen(said["y"], said["said"], attacked["said"] if attacked else None)


def _behind(seen: Iterable[Stage | None]) -> Env:
    """The stored stages that led to predictions."""
    return {s.key: s for stage in filter(None, seen) for s in stage.lineage() if s.kept}


def _cell(planned: PlannedCell, plan: Plan, read: _Reader, off: bool) -> Cell:
    study = plan.study
    behind = _behind(planned.seen["ours"])
    records = {key: read.records[key] for key in behind if key in read.records}
    chosen, other = read.choice(behind), read.choice(_behind(planned.seen.get("control", ())))
    passed_over = {
        source.key
        for s in behind.values()
        for name, source in s.inputs.items()
        if source.key in s.spare and name != f"candidate{chosen.get('chosen')}"
    }
    measured = {name: read.records.get(stage.key) for name, stage in planned.metrics.items()}
    said = [*(r for key, r in records.items() if key not in passed_over), *filter(None, measured.values())]
    flags = [flag for record in said for flag in record.get("flags", ())]
    arms = {arm: read.seen(*pair) for arm, pair in planned.seen.items()}
    if arms["ours"] is None:
        arms = dict.fromkeys(arms)  # of what was not measured, nothing is said
    products: dict[str, Any] = {
        **planned.axes, **dict.fromkeys(("control", "undefended", "teacher", "teacher_control")), **arms,
        "seen": arms["ours"], "target": planned.target, "records": list(records.values()),
    }  # fmt: skip
    for name, stage in planned.findings.items():
        record = read.done(stage)
        products[name] = Finding.made(record["finding"]) if record else None
    if "finding" in products:
        products.setdefault("finding_control", None)
    known = {name: record.get("value") for name, record in measured.items() if record}
    if arms["ours"] and chosen_on_test(study.origin, planned.axes.values(), planned.seed):
        flags.append("chosen-on-test")
    if arms["ours"] and other.get("option", chosen.get("option")) != chosen.get("option"):
        flags.append("tuned-apart")
    if arms["ours"] and off:
        flags.append("off-protocol")
    found = score(products, place=planned.place, on=planned.cleans, known=known, flags=flags, seeds=planned.repeated)
    state, error = "done", next((r["error"] for r in measured.values() if r and "error" in r), None)
    if products["seen"] is None:
        undone = next(s.key for s in planned.seen["ours"] if s and not read.done(s))
        missing = {"state": "missing", "error": read.damaged.get(undone, "not run yet")}
        last = read.records.get(undone, missing)
        state, error = last["state"], last.get("error")
    ran = list(records.values())
    words = ["distrust", "run", study.source, "--budget", study.budget, "--only", planned.id]
    return {
        "id": planned.id, "study": study.name, "budget": study.budget, **planned.axes, "place": planned.place,
        "seed": planned.seed, "state": state, "error": error, "target": planned.target, **found.record(),
        "published": _published(study.published, planned.axes), "chosen": chosen.get("option"),
        "chosen_control": other.get("option"), "validation": chosen.get("validation"),
        "keys": planned.keys, "reproduce": shlex.join(words),
        "env": ran[-1].get("env") if ran else None,
    }  # fmt: skip


def _published(rows: list[dict[str, Any]], axes: dict[str, str]) -> list[dict[str, Any]]:
    """Rows whose words are this cell's axes; where there are none, those with which its axes begin.

    None is of another rate, which is of all training images; where an attack keeps labels, ours is of the target's, and
    they are not compared.
    """
    attack = parse_one(axes.get("attack", "none"))
    own, marks = attack.options.get("rate"), registry.marks("attacks")
    if own is not None and not (attack.name in marks and marks[attack.name].clean_label):
        rows = [row for row in rows if row.get("rate", own) == own]

    def agreeing(same: Any) -> list[dict[str, Any]]:
        return [row for row in rows if all(same(axes[a], value) for a, value in row.items() if a in axes)]

    return agreeing(str.__eq__) or agreeing(lambda own, value: own == value or own.startswith(f"{value}["))
