"""Study files: what they may say, which combinations they name, and what stops before any work."""

from __future__ import annotations

import re

import pytest
from tests.study_fixture import BUDGET, plan, study

from distrust.errors import BadInput, NotFound
from distrust.study import make_plan, read_study

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


def test_a_block_may_be_repeated_less_often():
    blocks = [{"defense": ["none", "finetune"], "seeds": 1}, {"distiller": "none", "seeds": 2}, {"distiller": "kd"}]
    cells = plan(attack="badnets", grid=blocks, seeds=3).cells
    found = [(cell.axes["distiller"], cell.axes["defense"], cell.seed) for cell in cells]
    assert found == [
        ("none", "none", 0), ("none", "none", 1), ("none", "finetune", 0),
        ("kd", "none", 0), ("kd", "none", 1), ("kd", "none", 2),
    ]  # fmt: skip
    assert {cell.seed for cell in plan(attack="badnets", grid=[{"seeds": 4}]).cells} == {0}, "never more often"


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


def test_a_study_without_a_condenser_does_not_know_the_axis():
    (cell,) = plan(attack="badnets").cells
    assert "condenser" not in cell.axes


def test_no_fewer_images_are_held_for_defenders_than_one_of_them_gets():
    with pytest.raises(BadInput, match=r"held = 0\.02 is less than clean = 0\.05"):
        plan(budgets={"cpu": {"held": 0.02}})


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
        (
            {"budgets": {"cpu": {"condenser": {"dm": {"iteration": 1}}}}},
            NotFound,
            "option of dm 'iteration'",
        ),
        ({"budgets": {"cpu": {"defense": {"nda": {"epochs": 1}}}}}, NotFound, "no defense 'nda'.*Did you mean 'nad'"),
        ({"budgets": {"cpu": {"attack": {"badnets": {"rate": 2}}}}}, BadInput, "badnets: rate=2"),
        ({"distiller": "kd", "defense": "consistency[lose=tune(0.1,0.2)]"}, BadInput, "is not tuned. Write an axis"),
        ({"budgets": {"cpu": {"views": {"flop": False}}}}, NotFound, "option of views 'flop'.*Did you mean 'flip'"),
        ({"budgets": {"cpu": {"transfer": {"epoch": 1}}}}, NotFound, "option of transfer 'epoch'.*'epochs'"),
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


@pytest.mark.parametrize(
    "dial, loose, name, option",
    [
        ("attack", {"steps": 100}, "cheatkd", "steps"),
        ("defense", {"epochs": 1}, "finetune", "epochs"),
        ("condenser", {"dm": {"iterations": 1}, "images_per_class": 2}, "dm", "images_per_class"),
    ],
)
def test_an_option_of_no_method_is_refused_and_what_the_error_says_to_type_works(dial, loose, name, option, tmp_path):
    """A dial names its method: `attack = {steps = 100}` once reached three attacks that share a word."""
    file = tmp_path / "old.toml"
    base = f'name = "old"\n{dial} = "{name}"\n[budgets.small]\n'
    words = ", ".join(f"{k} = {{iterations = 1}}" if isinstance(v, dict) else f"{k} = {v}" for k, v in loose.items())
    file.write_text(f"{base}{dial} = {{{words}}}\n")
    with pytest.raises(BadInput, match=rf"budgets\.small\.{dial}: {option} = {loose[option]} names no method") as said:
        read_study(file, budget="small")
    (typed,) = re.findall(r"\[budgets\.small\.\w+\.NAME\]", str(said.value))
    file.write_text(f"{base}{typed.replace('NAME', name)}\n{option} = {loose[option]}\n")
    (cell,) = make_plan(read_study(file, budget="small")).cells
    (stage,) = (s for s in cell.final if s.call["method"].endswith(f"/{name}"))
    assert stage.call["options"][option] == loose[option]


def test_a_budget_names_its_network_only_where_the_same_finds_none():
    plan(condenser="random", budgets={"cpu": BUDGET | {"network": "convnet2-w4"}})
    with pytest.raises(NotFound, match="'convnet2x'"):
        plan(condenser="random", budgets={"cpu": BUDGET | {"network": "convnet2x"}})
