"""Keys: what changes them, what does not, and what is therefore made again."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from pathlib import Path

import pytest
import torch
from tests.study_fixture import BUDGET, DEFENCE, keys, of_kind, plan, study

from distrust.errors import NotFound
from distrust.registry import Method, registry
from distrust.study.calls import call_of
from distrust.study.graph import digest
from distrust.study.pipeline import SCORED, Planner
from distrust.study.steps import STEPS
from distrust.versions import CORE


def test_planning_twice_gives_the_same_keys():
    changes = {
        "attack": ["badnets", "blend"],
        "distiller": ["none", "kd"],
        "defense": ["none", "nad"],
        "seeds": 2,
    }
    assert list(plan(**changes).stages) == list(plan(**changes).stages)
    assert all(len(key) == 32 for key in plan(**changes).stages)


@pytest.mark.parametrize(
    "kind, change",
    [
        ("teacher", {"teacher": ["wrn10-2"]}),
        ("teacher", {"attack": "badnets[rate=0.2]"}),
        ("teacher", {"attack": "badnets[stamp=after]"}),
        ("teacher", {"budgets": {"cpu": BUDGET | {"teacher": {"epochs": 2}}}}),
        ("teacher", {"budgets": {"cpu": BUDGET | {"teacher": {"epochs": 1, "precision": "bf16"}}}}),
        ("teacher", {"budgets": {"cpu": BUDGET | {"train": 65}}}),
        ("student", {"attack": "badnets[rate=0.2]"}),
        ("student", {"distiller": "kd[temperature=2]"}),
        ("student", {"budgets": {"cpu": BUDGET | {"student": {"epochs": 2}}}}),
        ("defense", {"distiller": "kd[temperature=2]"}),
        ("defense", {"defense": "finetune[lr=0.2]"}),
        ("predict", {"defense": "finetune[lr=0.2]"}),
        ("predict", {"budgets": {"cpu": BUDGET | {"test": 41}}}),
    ],
)
def test_a_key_changes_with_its_options_and_its_parents(kind, change):
    base = {"attack": "badnets", "distiller": "kd", "defense": "finetune"}
    assert keys(kind, **base) != keys(kind, **base | change)


def test_a_key_does_not_change_with_what_comes_later():
    base = {"attack": "badnets", "distiller": "kd", "defense": "finetune"}
    assert keys("teacher", **base) == keys("teacher", **base | {"distiller": "at", "defense": "nad", "seeds": 1})
    assert keys("student", **base) == keys("student", **base | {"defense": "nad"})
    assert keys("teacher", **base) < keys("teacher", **base | {"seeds": 2})


def test_options_written_out_or_in_another_order_are_the_same_stage():
    assert (
        keys(attack="badnets") == keys(attack="badnets[rate=0.1,target=0]") == keys(attack="badnets[target=0,rate=0.1]")
    )


def test_every_seed_has_stages_of_its_own():
    both = plan(attack="badnets", seeds=2)
    assert len(both.stages) == 2 * len(plan(attack="badnets").stages)
    assert {s.seed for s in both.stages.values()} == {0, 1}


def test_names_questions_and_published_numbers_do_not_count():
    assert keys(attack="badnets") == keys(
        attack="badnets", name="other", question="?", published=[{"acc": 1.0}], within=0.1
    )


def test_the_number_of_threads_does_not_count():
    before, threads = keys(attack="badnets"), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert keys(attack="badnets") == before
    finally:
        torch.set_num_threads(threads)


def test_a_file_of_weights_that_a_defence_names_counts_by_its_contents(tmp_path):
    nad, file = registry.get("defenses", "nad"), tmp_path / "clean.safetensors"
    with pytest.raises(NotFound, match="no file"):
        call_of(nad, {"teacher": str(file)})
    file.write_bytes(b"one")
    first = call_of(nad, {"teacher": str(file)})
    file.write_bytes(b"other")
    assert call_of(nad, {"teacher": str(file)}) != first and list(first["files"]) == [str(file)]
    assert "files" not in call_of(nad, {})


def test_the_code_of_a_method_from_outside_counts_and_its_comments_do_not(plugin):
    def keys_of(source):
        plugin(source)
        return keys(defense="mine")

    before = keys_of(DEFENCE)
    assert keys_of(DEFENCE.replace("    return", "    # a comment\n\n    return")) == before
    assert keys_of(DEFENCE.replace("Return the model.", "Give it back.")) == before
    assert keys_of(DEFENCE.replace("return model\n", "return model.eval()\n")) != before


def test_every_step_of_the_core_has_a_number_of_its_own(monkeypatch):
    """Raised, it changes the keys of its stages and of those behind them, and no others."""
    asked = {"attack": "badnets", "distiller": "kd", "defense": "finetune"}
    before = plan(**asked)
    for name, behind in {
        "student": {"student", "defense", "predict", "triggered"},
        "predict": {"predict", "triggered"},
        "images": {stage.kind for stage in before.stages.values()},
    }.items():
        with monkeypatch.context() as patch:
            patch.setitem(STEPS, name, dataclasses.replace(STEPS[name], version=2))
            after = plan(**asked)
        for kind in {stage.kind for stage in before.stages.values()}:
            ours, theirs = ({s.key for s in of_kind(made, kind) if reaches(s, name)} for made in (before, after))
            assert not ours & theirs and len(ours) == len(theirs) and bool(ours) == (kind in behind), (name, kind)
        same = {s.key for s in before.stages.values() if not reaches(s, name)}
        assert same == {s.key for s in after.stages.values() if not reaches(s, name)}


def reaches(stage, method):
    """A stage, or one before it, calls this."""
    return any(s.call["method"] == method for s in stage.lineage())


@pytest.mark.parametrize(
    "kind, name, uses",
    [
        ("attacks", "badnets", {"attack": ["none", "badnets"]}),
        ("defenses", "finetune", {"attack": "badnets", "defense": ["none", "finetune", "nad"]}),
        ("defenses", "finetune", {"defense": ["none", "finetune[lr=tune(0.1,0.01)]"]}),
        ("attacks", "cheatkd", {"attack": ["implant", "cheatkd"], "distiller": "kd"}),
        ("detectors", "random", {"attack": "badnets", "detector": ["random", "neural_cleanse"]}),
        ("metrics", "mechanism", {"attack": "cheatkd", "distiller": "kd"}),
    ],
)
def test_a_methods_raised_version_changes_its_keys_and_those_behind_and_no_others(kind, name, uses, monkeypatch):
    before = plan(**uses)
    method = registry.get(kind, name)
    raised = dataclasses.replace(method, mark=dataclasses.replace(method.mark, version=method.mark.version + 1))
    monkeypatch.setattr(registry, "_kinds", {**registry._kinds, kind: {**registry.kind(kind), name: raised}})
    after = plan(**uses)
    there = f"{kind}/{name}"
    changed, same = ([s for s in before.stages.values() if reaches(s, there) == yes] for yes in (True, False))
    assert changed and same and len(after.stages) == len(before.stages)
    assert not {s.key for s in changed} & after.stages.keys() and {s.key for s in same} <= after.stages.keys()


def test_a_distillers_version_is_that_of_its_students(monkeypatch):
    uses = {"attack": "badnets", "distiller": ["kd", "at"]}
    before = plan(**uses)
    method = registry.get("distillers", "at")
    raised = dataclasses.replace(method, mark=dataclasses.replace(method.mark, version=7))
    kinds = {**registry._kinds, "distillers": {**registry.kind("distillers"), "at": raised}}
    monkeypatch.setattr(registry, "_kinds", kinds)
    after = plan(**uses)
    kd, at = before.cells
    assert not {s.key for s in at.final[1:]} & after.stages.keys() and at.final[0].key in after.stages
    assert {s.key for s in kd.final} <= after.stages.keys()


def test_a_pure_refactoring_changes_no_key(monkeypatch):
    """A function in another module, written in another way, with the same options and version."""
    uses = {"attack": "badnets", "defense": ["finetune", "finetune[lr=tune(0.1,0.01)]"]}
    before = plan(**uses)
    method = registry.get("defenses", "finetune")
    elsewhere = Path(inspect.getfile(method.call)).with_name("elsewhere.py")
    source = "def rewritten(model, clean, **given):\n    found = old(model, clean, **given)\n    return found\n"
    scope = {"old": method.call}
    exec(compile(source, str(elsewhere), "exec"), scope)
    call = functools.update_wrapper(scope["rewritten"], method.call)
    call.__module__ = "distrust.methods.defenses.elsewhere"
    moved = Method("finetune", method.mark, call)
    assert moved.version == method.version and inspect.signature(moved.call) == inspect.signature(method.call)
    kinds = {**registry._kinds, "defenses": {**registry.kind("defenses"), "finetune": moved}}
    monkeypatch.setattr(registry, "_kinds", kinds)
    assert list(plan(**uses).stages) == list(before.stages)


@pytest.mark.parametrize("name", [name for name in CORE if name not in SCORED])
def test_a_raised_version_of_the_core_changes_every_key(name, monkeypatch):
    before = keys(attack="badnets", distiller="kd", defense="finetune")
    monkeypatch.setitem(CORE, name, CORE[name] + 1)
    assert not before & keys(attack="badnets", distiller="kd", defense="finetune")


@pytest.mark.parametrize("name", SCORED)
def test_what_works_on_stored_products_alone_changes_none(name, monkeypatch):
    before = keys(attack="badnets", distiller="kd")
    monkeypatch.setitem(CORE, name, CORE[name] + 1)
    assert keys(attack="badnets", distiller="kd") == before


def test_what_a_plan_says_for_people_changes_no_key():
    """Labels and slugs may be written anew; the hash is of call, inputs, seed and the core alone."""
    core = Planner(study()).core
    for stage in plan(attack="badnets", distiller="kd", defense="nad").stages.values():
        inputs = {name: source.key for name, source in stage.inputs.items()}
        assert stage.key == digest([stage.call, inputs, stage.seed, core])[:32]
        assert dataclasses.replace(stage, label="other words").key == stage.key
        assert json.loads(json.dumps(stage.call)) == stage.call, "a call can be written down"
