"""Cells: written, read, compared, and what stands in one that did not run."""

from __future__ import annotations

import json

import pytest
from tests.study_fixture import plan

from distrust.errors import BadInput, NotFound
from distrust.study import Outcome, Store, read_cells, run, score_cells, write_cells
from distrust.study.cells import compare


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
