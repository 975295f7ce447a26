"""Where options come from: of the committed studies each is told, and what was chosen on test stands apart."""

import pytest
from tests.report_fixture import seeds
from tests.study_fixture import plan, study

from distrust.errors import BadInput, NotFound
from distrust.reporting.rows import over_seeds
from distrust.reporting.verdict import comparisons, verdicts
from distrust.study import Outcome, Store, make_plan, read_study, run, score_cells
from distrust.study.origin import chosen_on_test
from distrust.study.spec import study_from

PICKED = {"origin": {"kd.weight": "test: other, seeds 0-1"}, "distiller": ["kd[weight=2]"]}


def test_every_fixed_option_of_the_committed_studies_has_an_origin(pytestconfig):
    for file in sorted((pytestconfig.rootpath / "studies").glob("*.toml")):
        found = read_study(file)
        fixed = {name for name, values in found.given().items() if len(values) == 1}
        assert fixed <= found.origin.keys() <= fixed | found.defaults(), file.name


WORDS = ["paper", "code: of NAD", "setting", "validation", "ours: to fit", "elsewhere: x", "test: x, seed 0"]


@pytest.mark.parametrize("text", [*WORDS, PICKED["origin"]["kd.weight"]])
def test_an_origin_is_one_of_seven(text):
    assert study(distiller=["kd[weight=2]"], origin={"kd.weight": text}).origin == {"kd.weight": text}


@pytest.mark.parametrize("text", ["", "ours", "elsewhere:", "test: x", "test: x, seeds 0,1", "the paper", "a\nb"])
def test_another_origin_is_refused_with_what_to_say(text):
    with pytest.raises(BadInput, match=r"origin\.kd\.weight: say where .* 'ours: WHY'"):
        study(distiller=["kd[weight=2]"], origin={"kd.weight": text})


def test_an_origin_of_what_is_not_there_is_refused_unless_the_axes_are_replaced(tmp_path):
    file = tmp_path / "x.toml"
    text = 'name = "x"\ndistiller = ["kd[weight=2]"]\n[origin]\nkd.weight = "paper"\n'
    file.write_text(text.replace("kd.weight", "kd.wieght"))
    with pytest.raises(NotFound, match=r"'kd\.wieght'.*Did you mean 'kd\.weight'"):
        read_study(file)
    file.write_text(text)
    assert read_study(file).origin == read_study(file, distiller=["at"]).origin == {"kd.weight": "paper"}


def test_a_table_in_the_table_says_the_same_and_no_key_changes():
    named = study_from({"name": "x", "distiller": ["kd[weight=2]"], "origin": {"kd": {"weight": "paper"}}})
    assert named.origin == {"kd.weight": "paper"}
    assert make_plan(named).stages.keys() == make_plan(named.model_copy(update={"origin": {}})).stages.keys()


def test_only_the_seeds_that_chose_are_flagged():
    origin = PICKED["origin"] | {"kd.temperature": "test: other, seed 7"}
    flagged = {seed for seed in range(9) if chosen_on_test(origin, ["none", "kd[weight=2]"], seed)}
    assert flagged == {0, 1} and not chosen_on_test(origin, ["at[weight=2]", "kd"], 0)


def test_a_cell_that_was_not_run_has_no_flag(tmp_path):
    made = plan(**PICKED)
    (cell,) = score_cells(made, None, Outcome())
    assert cell["state"] == "missing" and cell["flags"] == []


STUDENT = {"distiller": "kd", "student": "wrn16-1"}


def test_a_mean_leaves_out_what_was_chosen_on_its_own_seed():
    cells = seeds(*((0.9, asr) for asr in (0.9, 0.30, 0.32, 0.31)), **STUDENT)
    cells[0]["flags"] = ["chosen-on-test"]
    (row,) = over_seeds(cells)
    assert row.seeds == [1, 2, 3] and row.values["asr"].values == (0.30, 0.32, 0.31)
    assert "chosen-on-test" in row.flags and len(row.cells) == 4
    assert verdicts([row])[row] == "inherited"
    (few,) = over_seeds(cells[:3])
    assert verdicts([few])[few] == "two runs"


def test_where_every_seed_chose_there_is_a_mean_and_no_verdict():
    cells = seeds(*((0.9, asr) for asr in (0.30, 0.32, 0.31)), **STUDENT, flags=["chosen-on-test"])
    (row,) = over_seeds(cells)
    assert len(row.seeds) == 3 and verdicts([row]) == {}


def test_defences_are_not_compared_on_a_seed_that_chose():
    runs = {"none": 0.9, "nad": 0.1, "finetune": 0.5}
    cells = [cell for name, asr in runs.items() for cell in seeds(*((0.9, asr),) * 4, defense=name)]
    for cell in cells:
        cell["flags"] = ["chosen-on-test"] * (cell["seed"] == 0 and cell["defense"] == "nad")
    (found,) = comparisons(cells)
    assert found.rare == 1 and [one.defense for one in found.results] == ["finetune"]


def test_scored_cells_carry_the_flags_of_their_own_seed_and_combination(tmp_path):
    picked = {"distiller": ["kd[weight=2]"], "origin": {"kd.weight": "test: other, seed 0"}}
    made, store = plan(seeds=2, **picked, grid=[{}, {"distiller": ["kd"], "seeds": 1}]), Store(tmp_path)
    cells = score_cells(made, store, run(made, store))
    told = [{*cell["flags"]} & {"one-seed", "chosen-on-test"} for cell in cells]
    assert told == [{"chosen-on-test"}, set(), {"one-seed"}]
