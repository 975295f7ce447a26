"""The same seed gives the same bits, in whatever process: cells, records and files of a small study of every lane."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from tests.study_fixture import BUDGET, DEFENCE, plan, two_classes

from distrust.registry import registry
from distrust.study import Plan, Store, run, score_cells
from distrust.study.steps import _cut, _opened
from distrust.study.work import _looked_at, _planted

running = sys.modules["distrust.study.executors"]
pytestmark = pytest.mark.slow

PATCH = {"trigger": "patch:white:3"}
PASS = {"epochs": 1, "batch_size": 32}
LANES: dict[str, tuple[set[str], dict[str, Any], dict[str, Any]]] = {  # lane → stages that it has, study, its budget
    "an attacked teacher": (
        {"attack", "student", "embed"},
        {"attack": "cheatkd[steps=2,trigger_batch=8,epochs=1,flip=false]", "distiller": "overhaul", "embed": 8},
        {},
    ),
    "a poisoned transfer set": (
        {"poison", "sift", "student"},
        {"attack": "transfer_poison[inset=2,steps=2,rate=0.25]", "distiller": "kd", "defense": "consistency[lose=0.2]"},
        {},
    ),
    "a moved teacher": (
        {"transfer", "student"},
        {"attack": "badnets[target=1]", "distiller": "at", "student": "wrn10-1"},
        {"clean": 0.2, "validation": 0.2, "transfer": {"epochs": 1, "batch_size": 8}},
    ),
    "a synthetic set": (
        {"condense", "poison", "sift", "victim"},
        {"attack": "poisoned_distillation", "condenser": "dm", "student": "convnet2-w4", "defense": "smooth"},
        {
            "train": 200,
            "condenser": {"dm": {"network": "convnet2-w4", "images_per_class": 1, "iterations": 1, "batch_real": 2}},
            "attack": {"poisoned_distillation": {**PATCH, "network": "convnet2-w4", "outer": 1, "steps": 1,
                                                 "archetype_steps": 1, "net_steps": 1}},
        },
    ),
    "an encoder": (
        {"pretrain", "attack", "defense", "head"},
        {"attack": "badencoder", "encoder": "simclr", "teacher": "convnet2-w4", "student": "mlp", "defense": "mimic"},
        {
            "clean": 0.4, "views": {"flip": False}, "teacher": PASS, "attack": {"badencoder": PASS | PATCH},
            "defense": {"mimic": PASS | {"mine_epochs": 1}}, "head": {"mlp": {"epochs": 1}},
        },
    ),
    "a detector": (
        {"teacher", "predict", "detect"},
        {"attack": "badnets", "detector": "neural_cleanse", "distiller": "none"},
        {"detector": {"neural_cleanse": {"steps": 8, "success": 0.05, "lr": 0.5}}},
    ),
    "a tuned defence": (
        {"defense", "choose"},
        {"attack": "badnets", "defense": "finetune[lr=tune(0.1,0.01)]", "distiller": "none"},
        {"clean": 0.2, "validation": 0.2, "defense": {"finetune": {"epochs": 1}}},
    ),
    "a defence of one's own": ({"defense"}, {"attack": "badnets", "defense": "mine", "distiller": "none"}, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """A study of each lane."""
    folder = tmp_path_factory.mktemp("given")
    moved = {"images": f"digits>{two_classes(folder / 'set')}[channels=3]"}
    (folder / "mine.py").write_text(DEFENCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_kinds", {kind: dict(known) for kind, known in registry._kinds.items()})
        patch.setattr(registry, "files", [])
        patch.setitem(sys.modules, "distrust_plugin_mine", None)
        registry.add(folder / "mine.py")
        yield {
            lane: plan(**study, **(moved if lane == "a moved teacher" else {}), budgets={"cpu": BUDGET | budget})
            for lane, (_, study, budget) in LANES.items()
        }


def carried_out(made: Plan, folder, jobs: int = 1):
    """Store and outcome of a plan; nothing of an earlier one is remembered, and nobody's generator is as it was."""
    for remembers in (_planted, _looked_at, _cut, _opened):
        remembers.cache_clear()
    store = Store(str(folder))
    with torch.random.fork_rng():
        torch.seed()
        outcome = run(made, store, jobs=jobs)
    assert outcome.failed == outcome.skipped == 0, [r.get("error") for r in outcome.records.values()]
    assert {record["env"]["threads"] for record in outcome.records.values()} == {1}, "sums depend on their number"
    return store, outcome


@pytest.fixture(scope="module")
def ways(plans, tmp_path_factory):
    """All lanes as one plan, run twice here and once in two processes of one thread each."""
    stages = {key: stage for made in plans.values() for key, stage in made.stages.items()}
    cells = [cell for made in plans.values() for cell in made.cells]
    whole = Plan(next(iter(plans.values())).study, cells, stages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "cores", lambda: 2)  # which they share
        return {
            way: carried_out(whole, tmp_path_factory.mktemp("runs"), jobs)
            for way, jobs in (("once", 1), ("again", 1), ("workers", 2))
        }


def said(made: Plan, store: Store, outcome) -> dict[str, Any]:
    """What a study says: its cells, and of every stage the record and the bytes of each file; not when, and by whom."""
    told: dict[str, Any] = {}
    for key, stage in made.stages.items():
        record, files = store.load(key)
        told[f"record of {stage.label}, {key}"] = {k: v for k, v in record.items() if k not in ("seconds", "env")}
        told |= {f"{name} of {stage.label}, {key}": data for name, data in files.items()}
    for cell in score_cells(made, store, outcome):
        told[f"cell {cell['id']}"] = {k: v for k, v in cell.items() if k not in ("seconds", "env")}
    return {what: v if isinstance(v, bytes) else json.dumps(v) for what, v in told.items()}  # where NaN equals NaN


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [what for what in {**ours, **theirs} if ours.get(what) != theirs.get(what)]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("way", ["again", "workers"])
def test_a_seed_gives_the_same_bits(lane, way, plans, ways):
    made, kinds = plans[lane], {stage.kind for stage in plans[lane].stages.values()}
    assert LANES[lane][0] <= kinds, "it is that lane"
    ours = said(made, *ways["once"])
    assert any(".safetensors of" in what for what in ours) and any(what.startswith("cell") for what in ours)
    assert differing(ours, said(made, *ways[way])) == []


SHAKEN = "next(model.parameters()).data.mul_(1 + 1e-4 * __import__('torch').rand(()))\n    return model"


def test_what_is_drawn_without_a_seed_is_seen(plugin, tmp_path):
    plugin(DEFENCE.replace("return model", SHAKEN))
    made = plan(distiller="none", defense="mine")
    once, again = (said(made, *carried_out(made, tmp_path / name)) for name in ("once", "again"))
    found = differing(once, again)
    assert [what for what in found if what.startswith("model.safetensors of defense mine")], found
    assert not [what for what in found if " of teacher" in what], "what comes before is the same"
