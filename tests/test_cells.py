"""Cells: written, read, compared, and what stands in one that did not run."""

from __future__ import annotations

import json

import pytest
from tests.study_fixture import plan

from distrust.errors import BadInput, NotFound, Notice
from distrust.study import Outcome, Store, read_cells, run, score_cells, write_cells
from distrust.study.cells import compare


def row(seed=0, acc=0.8, asr=0.5, **more):
    """A finished cell."""
    axes = dict.fromkeys(("images", "teacher", "attack", "distiller", "student", "defense"), "x")
    facts = {"study": "trial", "budget": "cpu", "state": "done", "error": None, "n": 9, "flags": [], "published": []}
    facts |= {"target": 0, "keys": {"teacher": "a" * 32}, "reproduce": "distrust run trial.toml", "seconds": 1.0}
    found = axes | facts | {"seed": seed, "acc": acc, "asr": asr} | more
    return {"id": f"{found['defense']}-s{seed}"} | found


def test_of_the_same_seeds_each_run_lies_near_the_one_expected():
    expected = [row(0, 0.80), row(1, 0.82), row(2, 0.84)]
    assert compare([row(0, 0.82), row(1, 0.80), row(2, 0.86)], expected) == []
    assert compare([row(0, 0.80), row(1, 0.86), row(2, 0.84)], expected) == [
        "x · x · x · x · x · x: acc 0.860, expected 0.820 ± 0.03 (seed 1)"
    ]
    wide = [row(0, 0.8, asr=0.02), row(1, 0.8, asr=0.97), row(2, 0.8, asr=0.01)]
    swapped = [row(0, 0.8, asr=0.97), row(1, 0.8, asr=0.02), row(2, 0.8, asr=0.01)]
    assert compare(wide, wide) == [] and len(compare(swapped, wide)) == 1, "a mean that agrees is not enough"


def test_of_other_seeds_the_mean_lies_where_that_of_more_runs_would():
    expected = [row(0, 0.80), row(1, 0.82), row(2, 0.84)]  # t = 4.303, reach = 4.303 · 0.02 · √(1/3 + 1)
    assert compare([row(7, 0.90)], expected) == []
    assert compare([row(7, 0.93)], expected) == ["x · x · x · x · x · x: acc 0.930, expected 0.820 ± 0.099"]


@pytest.mark.parametrize(
    ("seeds", "said"),
    [([0.8], "the 1 expected"), ([0.8, 0.8], "the 2 expected"), ([0.1, 0.9, 0.1], "foresee 0.367 ± 2.295")],
)
def test_what_is_no_expectation_is_said(seeds, said):
    line = compare([row(7, 0.8)], [row(i, value) for i, value in enumerate(seeds)])[0]
    assert "cannot be compared" in line and said in line


def test_a_cell_that_is_missing_or_failed_is_a_difference_and_one_more_is_none():
    assert compare([row(defense="nad")], [row()]) == ["x · x · x · x · x · x: not in this run"]
    assert compare([row(), row(defense="nad")], [row()]) == []
    assert compare([row(acc=None, asr=None)], [row(asr=None)]) == ["x · x · x · x · x · x: acc nothing, expected 0.800"]


def test_cells_are_written_and_read_again(tmp_path):
    cells = [row(defense="nad"), row()]
    assert read_cells(write_cells(cells, tmp_path / "trial")) == cells
    with pytest.raises(NotFound, match=r"Did you mean '\S*trial'"):
        read_cells(tmp_path / "trail")
    (tmp_path / "trial" / "a.json").write_text(json.dumps({"id": 1}))
    with pytest.warns(Notice, match=r"a.json is not a cell \(\w+: .*it is left out"):
        assert read_cells(tmp_path / "trial") == cells
    with pytest.raises(BadInput, match="a.json is not a cell"):
        read_cells(tmp_path / "trial", whole=True)
    for name in ("nad", "x"):
        (tmp_path / "trial" / f"{name}-s0.json").unlink()
    with pytest.raises(BadInput, match="a.json is not a cell"):
        read_cells(tmp_path / "trial")


def contents(folder):
    return {str(file.relative_to(folder)): json.loads(file.read_text()) for file in sorted(folder.rglob("*.json"))}


LESS = {
    "not run": {"state": "missing", "acc": None, "asr": None, "error": "not run yet"},
    "failed": {"state": "failed", "acc": None, "asr": None, "error": "boom"},
    "skipped": {"state": "skipped", "acc": None, "asr": None, "error": "Skip: no"},
    "without its control": {"base": None, "carried": None},
    "without a field": {"carried": None},
    "without other seeds": {"flags": ["one-seed"]},
}


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("less", LESS)
def test_a_finished_cell_is_not_replaced_by_one_with_less(tmp_path, less, newest):
    full = row(base=0.1, carried=0.4)
    write_cells([full, row(1)], tmp_path)
    again = [row(**LESS[less]), row(1, acc=0.81), row(2)]
    if less == "not run":
        write_cells(again, tmp_path, newest=newest)
    else:
        with pytest.warns(Notice, match=r"more of 1 cell \(x-s0\) than this run gave, and keeps it"):
            write_cells(again, tmp_path, newest=newest)
    assert contents(tmp_path) == {"x-s0.json": full, "x-s1.json": row(1, acc=0.81), "x-s2.json": row(2)}
    failed = row(3, **LESS["failed"])
    write_cells([failed], tmp_path)
    write_cells([row(3)], tmp_path)
    assert contents(tmp_path)["x-s3.json"] == row(3), "a failed one gives way"


def test_a_cell_that_was_not_run_is_not_written(tmp_path):
    write_cells([row(**LESS["not run"])], tmp_path / "trial", whole=True)
    assert not (tmp_path / "trial").exists()


OTHERS = {
    "budget": {"budget": "smoke"},
    "stages": {"keys": {"teacher": "b" * 32}},
    "study": {"study": "other"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_cells_of_another_budget_version_or_study_go_beside(tmp_path, other):
    first, second = [row(seed) for seed in (0, 1)], [row(seed, **OTHERS[other]) for seed in (0, 1, 2)]
    write_cells(first, tmp_path)
    for _ in range(2):  # it finds its own place again
        with pytest.warns(Notice, match="finished cells of another budget or version, which stay; these are in"):
            place = write_cells(second, tmp_path, whole=True)
        assert place == tmp_path / second[0]["budget"]
        assert read_cells(tmp_path) == first and read_cells(place) == second
    third = [row(0, acc=0.5, keys={"teacher": "c" * 32}, budget=second[0]["budget"])]
    with pytest.warns(Notice, match="another budget or version"):
        assert write_cells(third, tmp_path) == tmp_path / f"{second[0]['budget']}-2"
    assert read_cells(tmp_path) == first and read_cells(place) == second


def test_beside_the_store_the_newest_version_of_a_cell_stands(tmp_path):
    write_cells([row()], tmp_path)
    newer = row(acc=0.5, keys={"teacher": "b" * 32})
    del newer["asr"]  # of another version, so that it may have other numbers
    assert read_cells(write_cells([newer], tmp_path, newest=True)) == [newer]


def test_what_a_run_does_not_plan_is_named_and_left(tmp_path):
    write_cells([row(seed) for seed in range(5)], tmp_path)
    before = contents(tmp_path)
    with pytest.warns(Notice, match=r"4 cells \(x-s1, x-s2, x-s3, …\) beside those of this run"):
        write_cells([row()], tmp_path, whole=True)
    write_cells([row()], tmp_path)  # one of several cells
    assert contents(tmp_path) == before


def test_what_is_no_cell_any_more_is_kept_beside_the_new_one(tmp_path):
    (tmp_path / "x-s0.json").write_bytes(b"\xff")
    write_cells([row()], tmp_path)
    assert read_cells(tmp_path) == [row()] and (tmp_path / "x-s0.damaged").read_bytes() == b"\xff"


def test_a_budget_is_no_way_out_of_the_folder(tmp_path):
    write_cells([row()], tmp_path / "trial")
    with pytest.warns(Notice, match="another budget"):
        assert write_cells([row(budget="../../x")], tmp_path / "trial") == tmp_path / "trial" / "_x"


BROKEN = {
    "seed": {}, "n": float("nan"), "attack": 10**19, "reproduce": {}, "asr_interval": 1.5, "carried_interval": -1,
    "acc": "0.9", "keys": {"teacher": "../../x"}, "flags": None, "published": [{"asr": [1]}], "state": "fine",
    "study": None, "error": 3, "asr": 10**400, "acc_interval": [0.1], "carry_over": {}, "budget": "../x",
    "chosen": 3, "place": "1", "seconds": float("inf"), "defense": "\ud800", "asr_all": True,
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_cell_is_validated(tmp_path, name):
    write_cells([row()], tmp_path)
    (tmp_path / "bad.json").write_text(json.dumps(row(1) | {name: BROKEN[name]}))
    with pytest.warns(Notice, match="bad.json is not a cell"):
        assert read_cells(tmp_path) == [row()]


@pytest.mark.parametrize("content", [b"", b"\xff{}", b"[" * 100_000, b"null", b'{"id": 1', b"9" * 5000])
def test_a_file_that_is_no_cell_is_named(tmp_path, content):
    write_cells([row()], tmp_path)
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.warns(Notice, match="bad.json is not a cell"):
        assert read_cells(tmp_path) == [row()]


@pytest.mark.parametrize("name", ["study", "keys", "reproduce", "acc", "state", "flags"])
def test_a_cell_lacks_nothing_that_is_relied_on(tmp_path, name):
    write_cells([row()], tmp_path)
    (tmp_path / "bad.json").write_text(json.dumps({k: v for k, v in row(1).items() if k != name}))
    with pytest.warns(Notice, match=f"bad.json is not a cell .{name}"):
        assert read_cells(tmp_path) == [row()]


def test_a_cell_that_did_not_run_says_so(tmp_path):
    made, store = plan(attack="badnets", defense="finetune"), Store(tmp_path)
    (cell,) = score_cells(made, store, run(made, store, mode="only-cached"))
    assert (cell["state"], cell["error"], cell["acc"], cell["flags"]) == ("missing", "not run yet", None, [])
    assert score_cells(made, store, Outcome()) == [cell]
    failed = cell | {"state": "failed", "error": "boom"}
    assert read_cells(write_cells([failed], tmp_path / "cells")) == [failed], "it has no numbers, and is a cell"


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
