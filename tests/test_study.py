from __future__ import annotations

import json
import sys

import pytest
import torch
from distrust.study.inputs import data, load_backdoor
from distrust.study.show import pictures_of
from PIL import Image

from distrust.data.synthetic import unpack_set
from distrust.errors import BadInput, NotFound
from distrust.registry import registry
from distrust.reporting.answer import answer
from distrust.study import Outcome, Store, make_plan, read_cells, read_study, run, score_cells, write_cells
from distrust.study import builder as building
from distrust.study.cells import compare
from distrust.study.spec import study_from

BUDGET = {"train": 64, "test": 40, "size": 8, "teacher": {"epochs": 1}, "student": {"epochs": 1}}


def study(**changes):
    content = {"name": "trial", "teacher": ["wrn10-1"], "budgets": {"cpu": BUDGET}, "budget": "cpu"}
    return study_from(content | changes)


def plan(**changes):
    return make_plan(study(**changes))


def keys(kind=None, **changes):
    return {key for key, stage in plan(**changes).stages.items() if kind in (None, stage.kind)}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Registers a defence of this source for one test."""
    monkeypatch.setattr(registry, "_kinds", {kind: dict(known) for kind, known in registry._kinds.items()})
    monkeypatch.setattr(registry, "files", [])
    places = iter(range(100))

    def add(source, name="mine"):
        file = tmp_path / str(next(places)) / f"{name}.py"
        file.parent.mkdir()
        file.write_text(source)
        monkeypatch.setitem(sys.modules, f"distrust_plugin_{name}", None)
        return registry.add(file)

    return add


DEFENCE = '''
from torch import Generator, nn
from distrust.data import ImageSet
from distrust.registry import Count, defense

@defense(paper="none")
def mine(model: nn.Module, clean: ImageSet, *, epochs: Count = 1, rng: Generator | None = None) -> nn.Module:
    """Return the model.

    Args:
        epochs: none.
    """
    return model
'''


# study files


def test_a_study_file_is_read_and_may_be_changed(tmp_path):
    file = tmp_path / "trial.toml"
    file.write_text(
        'name = "trial"\nseeds = 3\nattack = "badnets"\n[budgets.cpu]\ntrain = 10\n[budgets.smoke]\ntrain = 5\n'
    )
    found = read_study(file)
    assert (found.name, found.seeds, found.attack, found.budgets["cpu"].train) == (
        "trial",
        3,
        ["badnets"],
        10,
    )
    changed = read_study(file, budget="smoke", seeds=1)
    assert (changed.budget, changed.seeds, changed.attack) == ("smoke", 1, ["badnets"])
    assert read_study(file, budget=None).budget == "cpu"


def test_the_studies_that_come_along_can_be_planned(pytestconfig):
    files = sorted((pytestconfig.rootpath / "studies").glob("*.toml"))
    assert files
    for file in files:
        for budget in read_study(file).budgets:
            assert make_plan(read_study(file, budget=budget)).cells


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("name = 'x'\nteecher = ['wrn10-1']", NotFound, "'teecher'.*Did you mean 'teacher'"),
        ("name = 'x'\n[[grid]]\ndefence = ['nad']", NotFound, "'defence'.*Did you mean 'defense'"),
        ("name = 'x'\n[[grid]]\nembed = 3", NotFound, "'embed'"),
        ("name = 'x'\n[[grid]]\nseeds = 0", BadInput, r"grid\.0\.seeds"),
        ("name = 'x", BadInput, "is not TOML"),
        ("name = 'x'\nbudget = 'cpuu'", NotFound, "'cpuu'.*Did you mean 'cpu'"),
        ("name = 'x'\n[budgets.cpu]\nepochs = 3", BadInput, r"budgets\.cpu\.epochs"),
        ("name = 'x'\n[budgets.cpu]\nclean = 1.5", BadInput, r"budgets\.cpu\.clean.*got 1\.5"),
        ("name = 'x'\nseeds = 0", BadInput, "seeds"),
        ("name = 'a/b'", BadInput, "name"),
        ("seeds = 1", BadInput, "name: field required"),
        ("name = 'x'\nattack = []", BadInput, "attack"),
        ("name = 'x'\nattack = [3]", BadInput, "attack"),
    ],
)
def test_a_wrong_study_file_is_refused_by_name(text, error, words, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(error, match=words):
        read_study(file)


def test_a_missing_study_file_gets_near_matches(tmp_path):
    (tmp_path / "carry.toml").write_text("name = 'carry'")
    with pytest.raises(NotFound, match=r"Did you mean '\S*carry\.toml'"):
        read_study(tmp_path / "cary.toml")


# combinations


def axes(**changes):
    return [{axis: s.text for axis, s in chosen.items()} for chosen, _ in study(**changes).combinations()]


def test_axes_multiply_and_option_lists_are_axes():
    found = axes(attack=["none", "badnets[rate=[0.1,0.2]]"], distiller=["none", "kd"], defense="finetune")
    assert len(found) == 6
    assert [row["attack"] for row in found[::2]] == ["none", "badnets[rate=0.1]", "badnets[rate=0.2]"]
    assert {row["student"] for row in found if row["distiller"] == "kd"} == {"wrn10-1"}  # "same" as the teacher


def test_a_student_without_a_distiller_is_none_and_counts_once():
    assert [row["student"] for row in axes(student=["wrn10-1", "wrn16-1"])] == ["none"]
    assert len(axes(student=["wrn10-1", "wrn16-1"], distiller=["none", "kd"])) == 3


def test_grid_blocks_are_united_and_equal_rows_count_once():
    blocks = [
        {"defense": ["none", "finetune"]},
        {"distiller": ["none", "kd"]},
        {"distiller": "kd", "defense": "nad"},
    ]
    found = axes(attack="badnets", grid=blocks, defense="none")
    assert [(row["distiller"], row["defense"]) for row in found] == [
        ("none", "none"), ("none", "finetune"), ("kd", "none"), ("kd", "nad"),
    ]  # fmt: skip
    assert len({cell.id for cell in plan(attack="badnets", grid=blocks, seeds=3).cells}) == 12


def test_a_defence_may_get_another_share_of_clean_images():
    held = {"cpu": {"held": 0.2}}
    own, usual = plan(attack="badnets", defense=["finetune[clean=0.2]", "finetune"], budgets=held).cells
    assert own.final[-1].recipe["images"]["clean"] == 0.2 and own.axes["defense"] == "finetune[clean=0.2]"
    assert own.final[0] is usual.final[0] and usual.final[-1].recipe["images"]["clean"] == 0.05
    assert own.final[-1].recipe["defense"] == usual.final[-1].recipe["defense"], "it is no option of the method"
    for wrong in ("finetune[clean=0.06]", "finetune[clean=much]", "finetune[clean=0]"):
        with pytest.raises(BadInput, match=r"clean is a share of the training split, of which 0\.05 is held"):
            plan(defense=wrong)


def test_no_fewer_images_are_held_for_defenders_than_one_of_them_gets():
    with pytest.raises(BadInput, match=r"held = 0\.02 is less than clean = 0\.05"):
        plan(budgets={"cpu": {"held": 0.02}})


def test_shares_of_clean_images_lie_in_each_other_and_apart_from_the_training_images():
    recipe = plan(attack="badnets", budgets={"cpu": {"held": 0.2}}).cells[0].final[0].recipe["images"]
    few, more, most = (data({**recipe, "clean": share}) for share in (0.05, 0.1, 0.2))
    rows = [set(part.clean.index.tolist()) for part in (few, more, most)]
    assert rows[0] < rows[1] < rows[2] and [len(r) for r in rows] == [67, 135, 269]
    for part in (few, more, most):
        assert part.train.index.equal(most.train.index) and not rows[2] & set(part.train.index.tolist())


def test_what_takes_nothing_of_the_suspect_is_made_once_for_both_arms():
    blind, other = plan(encoder="simclr", attack="badencoder", defense=["scratch", "finetune_ssl"]).cells
    made, changed = ([stage for stage in cell.final if stage.kind == "defense"][0] for cell in (blind, other))
    assert [parent.kind for parent in made.parents] == ["pretrain"] and made.taint == blind.final[-1].taint == ()
    assert blind.seen is blind.control, "the same head under the same trigger"
    assert [parent.kind for parent in changed.parents] == ["attack"] and other.seen is not other.control
    assert changed.taint == other.final[-1].taint == ("badencoder",)


def test_a_block_may_be_repeated_less_often():
    blocks = [{"defense": ["none", "finetune"], "seeds": 1}, {"distiller": "none", "seeds": 2}, {"distiller": "kd"}]
    cells = plan(attack="badnets", grid=blocks, seeds=3).cells
    found = [(cell.axes["distiller"], cell.axes["defense"], cell.seed) for cell in cells]
    assert found == [
        ("none", "none", 0), ("none", "none", 1), ("none", "finetune", 0),
        ("kd", "none", 0), ("kd", "none", 1), ("kd", "none", 2),
    ]  # fmt: skip
    assert {cell.seed for cell in plan(attack="badnets", grid=[{"seeds": 4}]).cells} == {0}, "never more often"


# keys


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
    assert {s.recipe["seed"] for s in both.stages.values()} == {0, 1}


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


def test_the_core_has_a_number_of_its_own(monkeypatch):
    before = keys(attack="badnets")
    monkeypatch.setattr(building, "NUMERICS", building.NUMERICS + 1)
    assert not before & keys(attack="badnets")


# the graph


def test_parents_come_before_their_children():
    done = set()
    for key, stage in plan(attack="badnets", distiller="kd", defense="nad[lr=tune(0.1,0.01)]").stages.items():
        assert {p.key for p in stage.parents} <= done
        done.add(key)


def test_the_control_arm_is_the_clean_study_with_the_same_seed():
    made = plan(attack=["none", "badnets"], distiller="kd", defense="finetune", seeds=2)
    for seed in (0, 1):
        clean, attacked = (c for c in made.cells if c.seed == seed)
        assert attacked.control.parents[0] is clean.final[-1]
        assert attacked.teacher[1].parents[0] is clean.final[0]
        assert [s.taint for s in attacked.final] == [("badnets",)] * 3
        assert [s.taint for s in clean.final] == [()] * 3
        assert {s.recipe["seed"] for s in (*attacked.final, attacked.control, attacked.seen)} == {seed}
        assert attacked.control.recipe["attack"] == attacked.seen.recipe["attack"]  # the same trigger
        assert (attacked.place, attacked.target) == (1, 0) and (clean.place, clean.target) == (None, None)
        assert attacked.undefended.parents[0] is attacked.final[1]


def test_an_attack_changes_nothing_but_the_attack():
    attacked, clean = (c.final[0].recipe for c in plan(attack=["badnets", "none"]).cells)
    assert {k: v for k, v in attacked.items() if k != "attack"} == {k: v for k, v in clean.items() if k != "attack"}


def test_an_attack_on_the_teacher_starts_from_the_controls_teacher_and_lends_it_its_trigger():
    made = plan(attack="cheatkd", distiller="kd", defense="finetune")
    (cell,) = made.cells
    teacher, planted, student, defended = cell.final
    assert [s.kind for s in cell.final] == ["teacher", "attack", "student", "defense"]
    assert teacher.taint == () and {s.taint for s in cell.final[1:]} == {("cheatkd",)}
    assert cell.teacher[1].parents == (teacher, planted) and cell.teacher[0].parents == (planted,)
    assert cell.seen.parents == (defended, planted)
    assert cell.control.parents[1] is planted and cell.control.parents[0].parents[0].parents == (teacher,)
    assert (cell.place, cell.target) == (2, 0) and student.parents == (planted,)


def test_a_poisoned_transfer_set_lies_between_a_clean_teacher_and_its_student():
    (cell,) = plan(attack="transfer_poison", distiller="kd", defense="consistency").cells
    teacher, poison, sift, student = cell.final
    assert [s.kind for s in cell.final] == ["teacher", "poison", "sift", "student"]
    assert teacher.taint == () and {s.taint for s in cell.final[1:]} == {("transfer_poison",)}
    assert poison.parents == (teacher,) and sift.parents == (teacher, poison) and student.parents == (teacher, sift)
    assert cell.seen.parents == (student, poison)
    assert cell.teacher[0] is cell.teacher[1] and cell.teacher[0].parents == (teacher, poison)
    control, lent = cell.control.parents
    assert lent is poison and control.taint == () and [s.kind for s in control.parents] == ["teacher", "sift"]
    assert control.parents[1].parents == (teacher,)
    bare = cell.undefended.parents[0]
    assert bare.parents == (teacher, poison) and (cell.place, cell.target) == (3, 0)


def test_students_on_clean_images_do_not_know_of_transfer_sets():
    (clean,) = plan(distiller="kd").cells
    (attacked,) = plan(attack="transfer_poison", distiller="kd").cells
    assert attacked.control.parents[0].key == clean.final[-1].key


def test_a_condensed_set_has_no_teacher_and_its_control_shares_it():
    (cell,) = plan(attack="stamp", condenser="random", defense="finetune").cells
    condense, poison, victim, defended = cell.final
    assert [s.kind for s in cell.final] == ["condense", "poison", "victim", "defense"]
    assert condense.taint == () and {s.taint for s in cell.final[1:]} == {("stamp",)}
    assert poison.parents == (condense,) and victim.parents == (poison,) and defended.parents == (victim,)
    clean, lent, archetypes = cell.control.parents
    assert archetypes.parents == (condense,) and archetypes.taint == ()
    assert lent is poison and clean.taint == () and clean.parents[0].parents == (condense,)
    assert cell.undefended.parents == (victim, poison, archetypes)
    assert (cell.place, cell.target, cell.teacher) == (4, 0, None)
    assert cell.axes["teacher"] == "none" and cell.axes["condenser"] == "random" and cell.axes["student"] == "convnet3"


def test_a_defence_of_a_synthetic_set_stands_before_the_network_and_in_its_control(tmp_path):
    budget = BUDGET | {"student": {"epochs": 1}, "train": 200}
    made = plan(attack="stamp[trigger=patch:white:3]", condenser="random", student="convnet2-w4",
                defense=["range_clip", "smooth"], budgets={"cpu": budget})  # fmt: skip
    condense, poison, sift, victim = made.cells[0].final
    assert [s.kind for s in made.cells[0].final] == ["condense", "poison", "sift", "victim"] and sift.role == "class"
    assert sift.parents == (poison,) and victim.parents == (sift,) and sift.taint == ("stamp",)
    assert made.cells[0].control.parents[0].parents[0].parents == (condense,)
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    clipped, smoothed = score_cells(made, store, outcome)
    assert clipped["asr"] == clipped["undefended_asr"], "a legal set does not notice"
    assert "caught" not in smoothed and smoothed["base"] is not None


def test_a_detector_looks_at_the_set_or_the_network_and_at_its_control(tmp_path):
    budget = BUDGET | {"student": {"epochs": 1}, "train": 200}
    budget["detector"] = {"network": "convnet2-w4", "networks": 1, "epochs": 1, "size": 3, "steps": 2}
    made = plan(attack="stamp[trigger=patch:white:3]", condenser="random", student="convnet2-w4",
                detector=["patch_probe", "trigger_search", "random"], budgets={"cpu": budget})  # fmt: skip
    probe, search, _ = made.cells
    _, poison, victim = probe.final
    condense = poison.parents[0]
    assert [s.parents for s in probe.found] == [(poison,), (condense,)]
    assert search.found[0].parents == (victim, poison) and search.found[1].parents[1] is condense
    assert probe.axes["detector"] == "patch_probe" and probe.found[0].taint == ("stamp",)
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    cells = score_cells(made, store, outcome)
    assert all(c["score"] is not None and c["score_control"] is not None and 0 <= c["suspect"] < 10 for c in cells)
    assert cells[0]["acc"] == cells[1]["acc"] and "AUROC" in answer(cells)
    assert "1 of 1 results" in answer(cells), "three looks at one network are one measurement"


def test_a_detector_of_models_gets_the_defenders_images():
    (cell,) = plan(attack="badnets", detector="trigger_search").cells
    assert [s.parents[0].kind for s in cell.found] == ["teacher", "teacher"] and len(cell.found[0].parents) == 1
    assert cell.found[0].role == "clean"


def test_images_may_be_poisoned_before_they_are_condensed():
    (cell,) = plan(attack="badnets", condenser="random", student="convnet2").cells
    condense, victim = cell.final
    assert condense.taint == victim.taint == ("badnets",) and condense.recipe["attack"]["name"] == "badnets"
    assert cell.control.parents[0].parents[0].recipe["attack"] is None and cell.place == 1


def test_a_study_without_a_condenser_does_not_know_the_axis():
    (cell,) = plan(attack="badnets").cells
    assert "condenser" not in cell.axes


def test_the_budget_dials_the_condensers_and_the_network_that_is_the_same():
    budget = BUDGET | {"condenser": {"network": "convnet2-w4", "iterations": 3}, "student": {"epochs": 7}}
    made = plan(condenser=["random", "dm", "dm[network=convnet1-w4]"], budgets={"cpu": budget})
    assert [c.axes["student"] for c in made.cells] == ["convnet2-w4", "convnet2-w4", "convnet1-w4"]
    condense, victim = made.cells[1].final
    assert condense.recipe["condenser"]["options"]["iterations"] == 3 and victim.recipe["options"] == {"epochs": 7}


def test_the_budget_dials_the_attacks_too():
    budgets = {"cpu": BUDGET | {"attack": {"epochs": 3}}}
    made = plan(attack=["cheatkd", "badnets", "implant[epochs=7]"], budgets=budgets)
    asked = {c.axes["attack"]: next(s for s in c.final if s.recipe.get("attack")).recipe["attack"] for c in made.cells}
    assert [asked[name]["options"].get("epochs") for name in asked] == [3, None, 7]
    with pytest.raises(NotFound, match="option of the attacks 'epoch'"):
        plan(budgets={"cpu": BUDGET | {"attack": {"epoch": 3}}})


def test_a_distillers_selector_may_change_the_distillation():
    def student(distiller):
        (stage,) = (s for s in plan(distiller=distiller).stages.values() if s.kind == "student")
        return stage.recipe

    changed = student("overhaul[teacher_mode=eval,augment=none,epochs=9,weight=0.5]")
    assert changed["distiller"]["options"] == {"weight": 0.5}
    assert (changed["options"]["teacher_mode"], changed["options"]["epochs"]) == ("eval", 9)
    assert (changed["options"]["augment"]["flip"], changed["options"]["augment"]["crop"]) == (False, 0)
    assert student("overhaul")["options"]["teacher_mode"] == "train", "what it declares"
    assert student("kd")["options"]["teacher_mode"] == "eval" and "warmup" not in student("kd")["options"]
    assert student("ab")["options"]["warmup"] == 0.5 and student("ab[warmup=0]")["options"]["warmup"] == 0
    with pytest.raises(NotFound, match="option of overhaul 'wieght'"):
        plan(distiller="overhaul[wieght=1]")


def test_pairs_name_teachers_and_students_together():
    made = plan(pair=["a", "wrn16-2>wrn16-1"], distiller="kd", attack="none")
    assert [(c.axes["teacher"], c.axes["student"]) for c in made.cells] == [
        ("wrn28-4", "wrn16-4"),
        ("wrn16-2", "wrn16-1"),
    ]
    (block,) = plan(pair=["a"], distiller="kd", grid=[{"teacher": ["wrn10-1"]}]).cells
    assert block.axes["teacher"] == "wrn10-1", "a block's own teacher wins"
    with pytest.raises(NotFound, match="pair 'z'"):
        plan(pair="z")


def test_a_budget_may_bring_axes_and_seeds_of_its_own(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(
        'name = "s"\nbudget = "cpu"\nseeds = 2\n[budgets.cpu]\n'
        '[budgets.big]\nseeds = 4\naxes = {images = ["cifar10"], pair = ["a"]}\n'
    )
    small, big = read_study(file), read_study(file, budget="big")
    assert (small.seeds, big.seeds, read_study(file, budget="big", seeds=1).seeds) == (2, 4, 1)
    ((chosen, _),) = big.combinations()
    assert (chosen["images"].name, chosen["teacher"].name) == ("cifar10", "wrn28-4")
    with pytest.raises(NotFound, match="'image'"):
        study(budgets={"cpu": BUDGET | {"axes": {"image": ["digits"]}}})


def test_a_teacher_may_move_to_other_images():
    (cell,) = plan(images="digits>gtsrb[size=8]", attack="cheatkd", distiller="kd").cells
    assert [s.kind for s in cell.final] == ["teacher", "attack", "transfer", "student"]
    assert [s.recipe["images"]["source"] for s in cell.final] == ["digits", "digits", "gtsrb", "gtsrb"]
    assert cell.teacher[0].parents[0].kind == "transfer" and cell.seen.recipe["images"]["source"] == "gtsrb"
    (cell,) = plan(images="digits>gtsrb", attack="badnets", distiller="kd").cells
    assert cell.seen.recipe["attacked"]["source"] == "digits", "the trigger is the one that the teacher learnt"


def test_features_for_a_picture_are_kept_of_the_first_seed_only():
    made = plan(attack=["none", "cheatkd"], embed=20, seeds=2, distiller="kd")
    assert [c.embed is not None for c in made.cells] == [False, False, True, False]


def test_a_study_of_an_attacked_teacher_runs(tmp_path):
    changes = {"attack": ["cheatkd[steps=2,trigger_batch=8,epochs=1,flip=false]"], "distiller": "overhaul", "embed": 16}
    made, store = plan(**changes), Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    (cell,) = score_cells(made, store, outcome)
    assert cell["base"] is not None and cell["carried"] == pytest.approx(cell["asr"] - cell["base"])
    assert "teacher-in-train-mode" in cell["flags"]
    assert all(row["chosen"] == [] for row in cell["mechanism"]), "a student numbers its neurons anew"
    (teacher,) = (r for r in outcome.records.values() if r["kind"] == "attack")
    assert len(teacher["notes"]["loss"]) == 2 and set(teacher["notes"]["neurons"]) == set(teacher["notes"]["delta"])
    seen = outcome.records[made.cells[0].teacher[0].key]["mechanism"]
    assert all(1 <= row["rank"][0] <= row["channels"] and len(row["loss"]) == row["channels"] for row in seen)
    tensors = store.tensors(made.cells[0].embed.key, "embedding.safetensors")
    assert len(tensors["clean"]) == 16 and len(tensors["triggered"]) == int((tensors["y"] != 0).sum())


def test_a_study_of_a_poisoned_transfer_set_runs_and_says_what_was_caught(tmp_path):
    attack = "transfer_poison[inset=2,steps=2,rate=0.25]"
    made = plan(attack=attack, distiller="kd", defense=["none", "consistency[lose=0.2]", "strong_augment"])
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    none, sifted, changed = score_cells(made, store, outcome)
    assert none["poison_n"] == 16 and none["poison_share"] == 0.25 and "caught" not in none
    assert 0 <= sifted["caught"] <= 1 and 0 <= sifted["lost"] <= 1 and sifted["poison_hits"] == none["poison_hits"]
    assert sifted["undefended_asr"] == none["asr"]
    assert (changed["caught"], changed["lost"]) == (0, 0), "augmentation removes nothing"
    (poison,) = (key for key, r in outcome.records.items() if r["kind"] == "poison")
    assert len(store.tensors(poison, "images.safetensors")["at"]) == 16
    control = made.cells[1].control.parents[0].parents[1]
    assert outcome.records[control.key]["caught"] is None, "nothing is poisoned there"
    (shown,) = pictures_of(made, store).values()
    assert len(shown["clean"]) == 6 and "of the transfer set" in shown["caption"]


def test_a_study_of_synthetic_sets_runs_and_shows_them(tmp_path):
    budget = BUDGET | {
        "condenser": {"network": "convnet2-w4", "images_per_class": 1, "iterations": 1, "batch_real": 2, "flip": False},
        "attack": {"network": "convnet2-w4", "outer": 1, "steps": 1, "archetype_steps": 1, "net_steps": 1},
        "student": {"epochs": 2}, "train": 200,
    }  # fmt: skip
    attacks = ["none", *(f"{name}[trigger=patch:white:3]" for name in ("stamp", "poisoned_distillation", "append"))]
    made = plan(condenser="dm", attack=[*attacks, "badnets"], budgets={"cpu": budget})
    assert {stage.role for stage in made.stages.values()} == {"class", "test"}
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    clean, stamped, bent, grown, naive = score_cells(made, store, outcome)
    assert clean["asr"] is None and clean["condenser"] == "dm" and "off-range-images" in clean["flags"]
    assert (stamped["poison_share"], stamped["poison_added"]) == (0.1, 0) and bent["poison_share"] > 0.9
    assert (grown["poison_share"], grown["poison_added"]) == (0.0, 10)
    assert stamped["base"] is not None and naive["place"] == 1 and "poison_share" not in naive
    assert stamped["carry_over"] is None, "there is no teacher"
    assert {10 * c["asr_archetypes"] for c in (stamped, bent, grown)} <= set(
        range(11)
    ) and "asr_archetypes" not in naive
    (drawn,) = (stage for stage in made.stages.values() if stage.kind == "archetypes")
    added = next(s for s in made.stages.values() if s.kind == "poison" and s.recipe["attack"]["name"] == "append")
    backdoor, _ = load_backdoor(made.cells[3].seen, store)
    own = unpack_set(store.read(added.key, "images.safetensors")).x[-10:]
    assert torch.equal(own, backdoor.stamp_on(store.tensors(drawn.key, "images.safetensors")["x"])), "its very own"
    (victim,) = (r for r in outcome.records.values() if r["kind"] == "victim" and r["images"] == 20)
    assert victim["file"] == "model.tainted-append.safetensors"
    shown = pictures_of(made, store)
    assert all("of the synthetic set" in shown[attack]["caption"] for attack in attacks[1:])
    assert len(shown[attacks[3]]["clean"]) == 6 and "of the synthetic set" not in shown["badnets"]["caption"]


ENCODER = BUDGET | {
    "train": 200, "clean": 0.1, "views": {"flip": False}, "teacher": {"epochs": 1, "batch_size": 32},
    "attack": {"epochs": 1, "batch_size": 32, "trigger": "patch:white:3"},
    "defense": {"epochs": 1, "batch_size": 32, "mine_epochs": 1}, "head": {"epochs": 1, "steps": 2},
}  # fmt: skip


def test_a_study_of_encoders_runs_and_measures_heads_on_them(tmp_path):
    made = plan(
        encoder="simclr", teacher="convnet2-w4", student=["linear", "knn", "mlp"], budgets={"cpu": ENCODER},
        attack=["none", "badencoder", "ssl_backdoor"], grid=[{"defense": ["none", "mimic"]}],
    )  # fmt: skip
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    cells = {(c["attack"], c["student"], c["defense"]): c for c in score_cells(made, store, outcome)}
    assert len(cells) == 18 and all(c["state"] == "done" and c["encoder"] == "simclr" for c in cells.values())
    bad = cells["badencoder", "knn", "mimic"]
    assert bad["place"] == 5 and None not in (bad["base"], bad["carried"], bad["undefended_asr"], bad["acc_control"])
    assert bad["undefended_asr"] == cells["badencoder", "knn", "none"]["asr"] and bad["carry_over"] is None
    assert "class-missing" not in bad["flags"], "labels are not looked at"
    assert cells["ssl_backdoor", "linear", "none"]["place"] == 1
    kinds = [stage.kind for stage in made.cells[-1].final]
    assert kinds == ["pretrain", "defense", "head"] and "encoder" not in plan().cells[0].axes
    (attack,) = (r for r in outcome.records.values() if r["kind"] == "attack")
    assert (
        attack["label"] == "attack badencoder on the encoder ← badencoder, seed 0" and attack["spec"]["head"] is False
    )
    assert "From a poisoned encoder," in answer(list(cells.values())) or "can be judged" in answer(list(cells.values()))


def test_an_encoder_meets_a_downstream_set_and_a_target_that_this_lacks_fails_by_name(tmp_path):
    for split in ("train", "test"):
        for name in ("left", "right"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(24):
                Image.new("L", (8, 8), 9 * i + (name == "left")).save(tmp_path / "set" / split / name / f"{i}.png")
    downstream = f"digits>{tmp_path / 'set'}[channels=3]"
    made = plan(
        encoder="vicreg", teacher="convnet2-w4", images=downstream, attack="badencoder[target=[1,5]]",
        detector=["none", "decree[steps=2]"], budgets={"cpu": ENCODER | {"clean": 0.2, "validation": 0.2}},
    )  # fmt: skip
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    good, found, bad, _ = score_cells(made, store, outcome)
    assert good["state"] == "done" and good["n"] == 20, good["error"]
    assert found["score"] is not None and found["suspect"] is None, "an encoder has no classes"
    assert bad["state"] == "failed" and "has no image of the target, class 5" in bad["error"]


def test_a_defender_without_an_image_of_some_class_is_flagged(tmp_path):
    few = {**BUDGET, "clean": 0.005, "defense": {"epochs": 1, "flip": False}}
    made, store = plan(defense="finetune", budgets={"cpu": few}), Store(tmp_path / "store")
    (cell,) = score_cells(made, store, run(made, store))
    assert "class-missing" in cell["flags"]


def test_a_transferred_teacher_runs_and_a_target_it_lacks_is_skipped(tmp_path):
    for split in ("train", "test"):
        for name in ("left", "right"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(24):
                Image.new("L", (8, 8), 9 * i + (name == "left")).save(tmp_path / "set" / split / name / f"{i}.png")
    base = {"distiller": "kd", "images": f"digits>{tmp_path / 'set'}[channels=3]", "student": "wrn10-1"}
    small = {**BUDGET, "clean": 0.2, "validation": 0.2, "transfer": {"epochs": 1, "batch_size": 8}}
    small["student"] = {"epochs": 1, "batch_size": 8}
    budgets = {"cpu": small}
    made, store = plan(attack="badnets[target=1]", budgets=budgets, **base), Store(tmp_path / "store")
    outcome = run(made, store)
    (cell,) = score_cells(made, store, outcome)
    assert cell["state"] == "done", cell["error"]
    assert [s.kind for s in made.cells[0].final] == ["teacher", "transfer", "student"]
    made = plan(attack="badnets[target=7]", budgets=budgets, **base)
    (cell,) = score_cells(made, store, run(made, store))
    assert cell["state"] == "skipped" and "the target is class 7" in cell["error"]


def test_a_tuned_defence_is_chosen_among_its_candidates():
    (cell,) = plan(attack="badnets", defense="finetune[lr=tune(0.1,0.01),epochs=tune(1,2)]").cells
    choose = cell.final[-1]
    assert choose.kind == "choose" and choose.recipe["option"] == "lr,epochs" and choose.recipe["within"] == 0.05
    assert choose.recipe["candidates"] == [
        {"lr": 0.1, "epochs": 1},
        {"lr": 0.1, "epochs": 2},
        {"lr": 0.01, "epochs": 1},
        {"lr": 0.01, "epochs": 2},
    ]
    suspect, *candidates = choose.parents
    assert suspect is cell.final[0]
    chosen = [{k: c.recipe["defense"]["options"][k] for k in ("lr", "epochs")} for c in candidates]
    assert chosen == choose.recipe["candidates"]


def test_the_budget_dials_the_defences_that_have_the_option():
    made = plan(
        defense=["finetune", "none", "finetune[epochs=7]"],
        budgets={"cpu": BUDGET | {"defense": {"epochs": 3}}},
    )
    stages = [s for s in made.stages.values() if s.kind == "defense"]
    assert [s.recipe["defense"]["options"]["epochs"] for s in stages] == [3, 7]


def test_ten_thousand_cells_are_planned_and_share_what_they_can():
    made = plan(
        attack=f"badnets[rate=[{','.join(f'0.0{i}' for i in range(10))}]]",
        distiller=f"kd[temperature=[{','.join(map(str, range(1, 11)))}]]",
        defense=f"finetune[epochs=[{','.join(map(str, range(1, 11)))}]]",
        seeds=10,
    )
    assert len(made.cells) == len({cell.id for cell in made.cells}) == 10_000
    count = {
        kind: sum(s.kind == kind for s in made.stages.values()) for kind in ("teacher", "student", "defense", "predict")
    }
    assert count == {
        "teacher": 11 * 10, "student": 11 * 10 * 10, "defense": 11 * 10 * 10 * 10,
        "predict": 2 * 10_000 + 10 * 10 * 10 + 2 * 10 * 10,
    }  # fmt: skip


# what stops before any work


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"attack": "badnet"}, NotFound, "no attack 'badnet'.*Did you mean 'badnets'"),
        ({"distiller": "kdd"}, NotFound, "'kdd'.*'kd'"),
        ({"defense": "nda"}, NotFound, "'nda'.*'nad'"),
        ({"teacher": "wrn10x1"}, NotFound, "'wrn10x1'"),
        ({"teacher": "wrn11-1"}, BadInput, "wrn11-1"),
        ({"distiller": "kd", "student": "wrn12-1"}, BadInput, "wrn12-1"),
        ({"attack": "badnets[rat=0.1]"}, NotFound, "'rat'.*Did you mean 'rate'"),
        ({"attack": "badnets[rate=1.5]"}, BadInput, "rate=1.5"),
        ({"attack": "badnets[rate=much]"}, BadInput, "rate='much'"),
        ({"attack": "badnets["}, BadInput, "selector"),
        ({"defense": "finetune[lr=tune(0.1,-1)]"}, BadInput, "lr=-1"),
        ({"attack": "transfer_poison"}, BadInput, "poisons a transfer set, and distiller 'none' has none.*kd"),
        ({"defense": "consistency"}, BadInput, "sifts a transfer set, and distiller 'none' has none.*kd"),
        ({"defense": "smooth"}, BadInput, "works on a synthetic set, and condenser 'none' makes none.*dm"),
        ({"detector": "patch_probe"}, BadInput, "looks at a synthetic set, and condenser 'none' makes none.*dm"),
        ({"detector": "patch_prob"}, NotFound, "no detector 'patch_prob'.*Did you mean 'patch_probe'"),
        ({"attack": "stamp"}, BadInput, "stamp enters at place 4; with a condenser"),
        ({"attack": "cheatkd", "condenser": "dm"}, BadInput, "cheatkd enters at place 2; with a condenser"),
        (
            {"distiller": "kd", "condenser": "dm"},
            BadInput,
            "dm makes a set that a student is trained on, not distilled",
        ),
        ({"defense": "consistency", "condenser": "dm"}, BadInput, "asks a teacher about a transfer set"),
        ({"images": "digits>digits[size=8]", "condenser": "dm"}, BadInput, "move a teacher, and a condenser has none"),
        ({"condenser": "mdd"}, NotFound, "no condenser 'mdd'"),
        ({"encoder": "simclr", "distiller": "kd"}, BadInput, "measured through a head; distiller 'kd' has no place"),
        ({"encoder": "simclr", "condenser": "dm"}, BadInput, "measured through a head; condenser 'dm' has no place"),
        ({"encoder": "simclr", "student": "wrn10-1"}, NotFound, "no head 'wrn10-1'"),
        ({"encoder": "simclr", "defense": "nad"}, BadInput, "nad works on a classifier, and this is an encoder.*mimic"),
        ({"encoder": "simclr", "defense": "mimic[lr=tune(1,2)]"}, BadInput, "no accuracy to tune by. Write an axis"),
        ({"encoder": "simclr", "attack": "cheatkd"}, BadInput, "cheatkd enters at place 2"),
        ({"attack": "badencoder"}, BadInput, "badencoder enters at place 5"),
        ({"defense": "mimic"}, BadInput, "works on an encoder, and encoder 'none' makes none.*simclr"),
        ({"condenser": "dm", "defense": "mimic"}, BadInput, "works on an encoder, and a condenser has none"),
        ({"detector": "decree"}, BadInput, "looks at an encoder, and encoder 'none' makes none.*simclr"),
        ({"budgets": {"cpu": {"condenser": {"iteration": 1}}}}, NotFound, "option of the condensers 'iteration'"),
        ({"distiller": "kd", "defense": "consistency[lose=tune(0.1,0.2)]"}, BadInput, "is not tuned. Write an axis"),
        ({"budgets": {"cpu": {"teacher": {"epoch": 1}}}}, NotFound, "option of teacher 'epoch'.*'epochs'"),
        (
            {"budgets": {"cpu": {"student": {"momentun": 1}}}},
            NotFound,
            "option of student 'momentun'.*'momentum'",
        ),
    ],
)
def test_a_wrong_name_or_option_stops_the_plan(change, error, words):
    with pytest.raises(error, match=words):
        plan(**change)


# cells


def row(seed=0, acc=0.8, asr=0.5, **axes):
    axes = dict.fromkeys(("images", "teacher", "attack", "distiller", "student", "defense"), "x") | axes
    return {"id": f"{axes['defense']}-s{seed}", "seed": seed, "acc": acc, "asr": asr} | axes


def test_a_run_within_the_expected_interval_is_the_same():
    expected = [row(0, 0.80), row(1, 0.82), row(2, 0.84)]  # the t-interval reaches 0.05
    assert compare([row(0, 0.86)], expected) == []
    assert compare([row(0, 0.88)], expected) == ["x · x · x · x · x · x: acc 0.880, expected 0.820 ± 0.050"]


def test_a_single_expected_seed_leaves_two_points():
    assert compare([row(acc=0.81, asr=0.515)], [row()]) == []
    assert compare([row(acc=0.83, asr=0.47)], [row()]) == [
        "x · x · x · x · x · x: acc 0.830, expected 0.800 ± 0.020",
        "x · x · x · x · x · x: asr 0.470, expected 0.500 ± 0.020",
    ]


def test_a_cell_that_is_missing_or_failed_is_a_difference_and_one_more_is_none():
    assert compare([row(defense="nad")], [row()]) == ["x · x · x · x · x · x: not in this run"]
    assert compare([row(), row(defense="nad")], [row()]) == []
    assert compare([row(acc=None, asr=None)], [row(asr=None)]) == [
        "x · x · x · x · x · x: acc nothing, expected 0.800 ± 0.020"
    ]


def test_cells_are_written_and_read_again(tmp_path):
    cells = [row(defense="nad"), row()]
    assert read_cells(write_cells(cells, tmp_path / "trial")) == cells
    with pytest.raises(NotFound, match=r"Did you mean '\S*trial'"):
        read_cells(tmp_path / "trail")
    (tmp_path / "trial" / "a.json").write_text(json.dumps({"id": 1}))
    with pytest.raises(BadInput, match="a.json is not a cell"):
        read_cells(tmp_path / "trial")


def test_a_cell_that_did_not_run_says_so(tmp_path):
    made, store = plan(attack="badnets", defense="finetune"), Store(tmp_path)
    (cell,) = score_cells(made, store, run(made, store, mode="only-cached"))
    assert (cell["state"], cell["error"], cell["acc"], cell["flags"]) == ("missing", "not run yet", None, [])
    assert score_cells(made, store, Outcome()) == [cell]


def test_a_published_number_stands_beside_the_cells_it_belongs_to(tmp_path):
    rows = [{"attack": "badnets", "defense": "finetune", "acc": 0.9}]
    made, store = (
        plan(attack=["badnets[rate=0.2]", "blend"], defense=["none", "finetune"], published=rows),
        Store(tmp_path),
    )
    cells = score_cells(made, store, Outcome())
    assert [bool(cell["published"]) for cell in cells] == [False, True, False, False]


def test_of_published_numbers_the_cells_own_goes_before_one_that_it_begins_with(tmp_path):
    rows = [{"attack": "badnets", "asr": 0.1}, {"attack": "badnets[rate=0.2]", "asr": 0.2}]
    made, store = plan(attack="badnets[rate=[0.2,0.3]]", published=rows), Store(tmp_path / "store")
    cells = score_cells(made, store, run(made, store))
    assert [[row["asr"] for row in cell["published"]] for cell in cells] == [[0.2], [0.1]]
