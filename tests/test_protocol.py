"""The protocol of a table of defences: made-up studies that break it, one thing at a time."""

import pytest
from tests.study_fixture import BUDGET, plan

from distrust.errors import NotFound
from distrust.selectors import parse_one
from distrust.study import Outcome, Store, make_plan, read_study, run, score_cells
from distrust.study.protocol import _Judge, breaches

FAIR = ["none", "finetune", "nad[lr=tune(0.1,0.02)]"]
SAID = {"nad.teacher_epochs": "paper"}


def told(*defenses, origin=SAID, budget=(), **changes):
    """Defence → what its cells break."""
    budgets = {"cpu": {**BUDGET, "train": 512, "clean": 0.2, **dict(budget)}}
    content = {"attack": ["none", "badnets"], "defense": [*defenses], "origin": origin, "budgets": budgets}
    made = plan(**{"protocol": True, **content, **changes})
    off = breaches(made.study, made.cells)
    found = {cell.axes["defense"]: off[cell.id] for cell in made.cells if cell.id in off}
    assert sorted(off) == sorted(cell.id for cell in made.cells if cell.axes["defense"] in found), "whatever the attack"
    return found


def test_a_fair_table_breaks_nothing_and_no_other_study_is_held_to_it():
    assert told(*FAIR, "bnp") == {}
    assert told(*FAIR, "bnp[u=2]", "anp", protocol=False) == {}


@pytest.mark.parametrize("word", ["paper", "code: of its README", "validation", "validation: of the other study"])
def test_a_threshold_needs_its_default_a_choice_or_an_origin(word):
    (how,) = told(*FAIR, "bnp[u=2]")["bnp[u=2]"]
    assert how.startswith("u=2.0 is not the default (3.0), nor tuned")
    assert told(*FAIR, "bnp[u=3]") == told(*FAIR, "bnp[u=tune(2,3)]") == {}
    assert told(*FAIR, "bnp[u=2]", origin=SAID | {"bnp.u": word}) == {}


@pytest.mark.parametrize("word", ["ours: to fit", "elsewhere: x", "test: x, seed 0", "setting"])
def test_other_origins_vouch_for_no_threshold(word):
    assert set(told(*FAIR, "bnp[u=2]", origin=SAID | {"bnp.u": word})) == {"bnp[u=2]"}


def test_what_a_budget_dials_and_what_stands_beside_a_tuned_option_is_held_to_it_too():
    (how,) = told(*FAIR, budget={"defense": {"finetune": {"lr": 0.05}}})["finetune"]
    assert how.startswith("lr=0.05 ")
    text = "nad[p=3,lr=tune(0.1,0.02)]"
    (how,) = told("finetune", text)[text]
    assert how.startswith("p=3.0 ")
    (decay,) = told("finetune[weight_decay=0.01]")["finetune[weight_decay=0.01]"]
    assert decay.startswith("weight_decay=0.01 is not the default (0.0001)")


def test_whole_numbers_are_no_thresholds():
    assert told("finetune[cutout=0]", "nad[batch_size=63]") == {}


def test_a_defence_at_the_teacher_is_held_to_it_like_one_behind_the_student():
    rivals = ["finetune", "finetune[at=teacher]", "nad[lr=tune(0.1,0.02),at=teacher]"]
    assert told("none", *rivals, distiller="kd") == {}
    text = "nad[p=3,at=teacher]"
    (how,) = told(*rivals, text, distiller="kd")[text]
    assert how.startswith("p=3.0 ")


def test_rivals_get_the_same_clean_images():
    text = "nad[clean=0.1]"
    images, alone = told("finetune", text)[text]
    assert images == "it gets a share of 0.1 of the training images, and no finetune does"
    assert alone == "no finetune stands beside it on as many images"
    assert told("finetune[clean=[0.1,0.05]]", "nad[clean=[0.1,0.05]]") == {}
    elsewhere = "nad[clean=digits]"
    assert told("finetune", elsewhere)[elsewhere][0] == "it gets images of digits, and no finetune does"
    assert told("finetune", "finetune[clean=digits]", elsewhere) == {}
    found = told(
        "finetune[clean=[0.1,0.2]]", "nad[clean=[0.1,0.2]]", "fst[epochs=20]", origin=SAID | {"fst.epochs": "code"}
    )
    assert set(found) == {"finetune[clean=0.1]", "nad[clean=0.1]"} and "no fst does" in found["nad[clean=0.1]"][0]


def test_rivals_share_all_but_the_defence():
    grid = [
        {"attack": ["badnets"], "defense": ["finetune[clean=0.1]", "nad[clean=0.1]"]},
        {"attack": ["blend"], "defense": ["finetune", "nad", "bnp"]},
    ]
    assert told("none", grid=grid) == {}


@pytest.mark.parametrize(
    "text, steps",
    [  # 269 clean images, of which fine-tuning takes 4 batches of 64 in each of 10 epochs
        ("nad", 80), ("fst", 20), ("fst[batch_size=64,epochs=15]", 0), ("fst[batch_size=64,epochs=16]", 64),
        ("fst[batch_size=64,epochs=6]", 24), ("fst[batch_size=64,epochs=7]", 0), ("finepruning", 0), ("bnp", 0),
        ("fst[batch_size=1000,epochs=5]", 5), ("sau", 100),
    ],
)  # fmt: skip
def test_steps_are_epochs_times_batches_within_one_and_a_half_of_finetunes(text, steps):
    found = told("finetune", text, origin={})
    start = f"its {steps} optimiser steps and finetune's 40 are more than 1.5 times apart"
    assert found == {} if not steps else found[text][0].startswith(start)
    option = "teacher_epochs" if text == "nad" else "batch_size"
    assert told("finetune", text, origin={f"{text.partition('[')[0]}.{option}": "ours: why not"}) == {}


def test_what_counts_no_epochs_has_its_declared_cost_for_a_budget():
    judge = _Judge(plan(protocol=True, defense=["finetune"]).study)
    assert judge.count(parse_one("recondense[iterations=10]"), 640) == 1.4 * 10 * 640 / 64
    assert judge.count(parse_one("prune"), 640) == judge.count(parse_one("clp"), 640) == 0


def test_without_fine_tuning_there_is_nothing_to_compare_with():
    assert told("nad", "bnp") == {"nad": ["no finetune stands beside it on as many images"]}


def test_an_origin_may_name_defaults_of_a_table_and_nothing_that_is_not_there(tmp_path):
    file = tmp_path / "x.toml"
    text = 'name = "x"\n{0}defense = ["finetune", "ft_sam"]\n[origin]\nft_sam.{1} = "paper"\n'
    file.write_text(text.format("protocol = true\n", "epochs"))
    assert read_study(file).origin == {"ft_sam.epochs": "paper"}
    for head, option in (("protocol = true\n", "epoch"), ("", "epochs")):
        file.write_text(text.format(head, option))
        with pytest.raises(NotFound, match="no option with an origin"):
            read_study(file)


def test_no_key_changes_and_only_some_cells_are_planned_with_all_rivals_known():
    one, other = (plan(protocol=protocol, defense=[*FAIR, "fst[epochs=40]"]) for protocol in (True, False))
    assert one.stages.keys() == other.stages.keys()
    study = one.study
    whole = make_plan(study)
    (cell,) = (cell for cell in whole.cells if cell.axes["defense"] == "fst[epochs=40]")
    alone = make_plan(study, only=cell.id)
    assert breaches(study, alone.cells) == {cell.id: breaches(study, whole.cells)[cell.id]}
    assert "finetune's" in breaches(study, alone.cells)[cell.id][0]


def test_the_plan_says_it_and_the_cells_carry_the_flag(tmp_path):
    made = plan(protocol=True, defense=["none", "finetune[epochs=1]", "bnp[u=2]"])
    store = Store(str(tmp_path / "s"))
    cells = {cell["defense"]: cell for cell in score_cells(made, store, run(made, store, jobs=1))}
    assert {name for name, cell in cells.items() if "off-protocol" in cell["flags"]} == {"bnp[u=2]"}
    unseen = score_cells(made, None, Outcome())
    assert not any("off-protocol" in cell["flags"] for cell in unseen), "nothing was measured"
