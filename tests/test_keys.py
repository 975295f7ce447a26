"""Keys: what changes them, what does not, and what is therefore made again."""

from __future__ import annotations

import pytest
import torch
from tests.study_fixture import BUDGET, DEFENCE, keys, plan


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


def test_the_code_of_a_method_from_outside_counts_and_its_comments_do_not(plugin):
    def keys_of(source):
        plugin(source)
        return keys(defense="mine")

    before = keys_of(DEFENCE)
    assert keys_of(DEFENCE.replace("    return", "    # a comment\n\n    return")) == before
    assert keys_of(DEFENCE.replace("Return the model.", "Give it back.")) == before
    assert keys_of(DEFENCE.replace("return model\n", "return model.eval()\n")) != before
