"""Very many cells: read once and kept, read again where their files changed, and asked in SQL. Counts, not seconds."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

import distrust as dt
from distrust.files import cache_directory
from distrust.study import cells as reading
from distrust.study import compact, read_cells

PLACE = Path(__file__).parents[1] / "results" / "nad-mini"
LONG_AGO = 1_600_000_000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sixty cells, in a folder that counts as large."""
    monkeypatch.setattr(reading, "MANY", 20)
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))
    cell = json.loads(next(PLACE.glob("*-s0.json")).read_text())
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(60):
        new = {
            **cell,
            "id": f"c{i:02}-s{i % 5}",
            "seed": i % 5,
            "asr": i / 100,
            "distiller": f"kd[temperature={i // 5}]",
        }
        put(folder, {**new, "flags": ["one-seed"] if i == 7 else [], "error": "é \U0001f600"})
    return folder


def put(folder, cell, when=LONG_AGO):
    file = folder / f"{cell['id']}.json"
    file.write_text(json.dumps(cell, indent=1, ensure_ascii=False))
    os.utime(file, (when, when))


@pytest.fixture
def opened(folder, monkeypatch):
    """The names of the files that are opened and validated."""
    names, validate = [], reading._Cell.model_validate
    monkeypatch.setattr(
        reading._Cell, "model_validate", lambda cell: names.append(cell.get("id", "?")) or validate(cell)
    )
    return names


def plainly(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(reading, "MANY", 10**9)
        return read_cells(folder)


def test_cells_are_the_same_and_are_opened_once(folder, opened, monkeypatch):
    truth = plainly(folder, monkeypatch)
    del opened[:]
    assert read_cells(folder) == truth and len(opened) == 60
    del opened[:]
    assert read_cells(folder) == read_cells(folder) == truth and opened == []
    assert [list(cell) for cell in read_cells(folder)] == [list(cell) for cell in truth], "keys in their order"
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{cell['id']}.json" for cell in truth), "nothing beside"
    assert str(dt.results(folder)) == str(dt.results(folder))


def test_a_file_that_changed_came_or_went_is_seen(folder, opened, monkeypatch):
    read_cells(folder)
    cell = json.loads((folder / "c03-s3.json").read_text())
    del opened[:]
    put(folder, {**cell, "asr": 0.987}, LONG_AGO)  # of another size
    put(folder, {**cell, "id": "c04-s4", "asr": 0.04}, LONG_AGO + 1)  # of another time
    put(folder, {**cell, "id": "new-s0"})
    (folder / "c59-s4.json").unlink()
    found = read_cells(folder)
    assert sorted(opened) == ["c03-s3", "c04-s4", "new-s0"]
    assert found == plainly(folder, monkeypatch) and len(found) == 60
    put(folder, {**cell, "asr": 0.98}, time.time())
    read_cells(folder)
    del opened[:]
    read_cells(folder)
    assert opened == ["c03-s3"], "it was written just now, and may be written again within the same tick of the clock"


def test_a_damaged_cell_is_named_every_time(folder):
    (folder / "c05-s0.json").write_text('{"id": "c05-s0"}')
    (folder / "gone.json").symlink_to(folder / "nowhere")
    (folder / "half.json").write_bytes(b'{"id": "\xff')
    for _ in range(2):
        with pytest.warns(Warning) as told:
            assert len(read_cells(folder)) == 59
        said = sorted(str(line.message) for line in told)
        assert len(said) == 3 and "c05-s0.json is not a cell (" in said[0] and "gone.json" in said[1]
        assert "half.json is not a cell (not UTF-8)" in said[2]
        with pytest.raises(dt.BadInput, match="is not a cell"):
            read_cells(folder, whole=True)


def test_what_is_kept_counts_only_if_it_can_be_read_and_the_code_is_the_same(folder, opened, monkeypatch):
    truth = read_cells(folder)
    (file,) = (cache_directory() / "cells").glob("*.parquet")
    for damage in (b"", b"PAR1", file.read_bytes()[:-9]):
        file.write_bytes(damage)
        del opened[:]
        assert read_cells(folder) == truth and len(opened) == 60
    del opened[:]
    monkeypatch.setattr(compact, "code", lambda: "of another day")
    assert read_cells(folder) == truth and len(opened) == 60
    (folder.parent / "taken").write_text("no folder")
    monkeypatch.setenv("DISTRUST_CACHE", str(folder.parent / "taken"))
    assert read_cells(folder) == read_cells(folder) == truth


def test_a_condition_chooses_cells(folder, monkeypatch):
    def ids(condition):
        return [cell["id"] for cell in read_cells(folder, where=condition)]

    assert ids("asr > 0.575") == ["c58-s3", "c59-s4"]
    assert ids("seed = 2 and distiller = 'kd[temperature=1]'") == ["c07-s2"] == ids("list_contains(flags, 'one-seed')")
    assert ids("state = 'done' and asr is null or asr = 0") == ["c00-s0"]
    monkeypatch.setattr(reading, "MANY", 10**9)
    assert ids("asr > 0.575") == ["c58-s3", "c59-s4"], "of few cells as well"
    assert [cell["asr"] for cell in dt.results(folder, where="asr > 0.575").cells] == [0.58, 0.59]


@pytest.mark.parametrize(
    "condition, message",
    [
        ("asrr > 0.5", r'"asrr" not found.*Columns: id, study, budget'),
        ("asr >", "where 'asr >'"),
        ("asr > 2", "none of the 60 cells in .* has asr > 2"),
        ("1 = (select count(*) from read_text('{file}'))", "where .*disabled"),
        ("1 = (select count(*) from '{file}')", "where "),
        ("1 = 1; attach '{file}.db' as other", "where "),
        ("1 = 1); copy (select 1) to '{file}.csv'; --", "where "),
        ("1 = (select count(*) from secret)", "where "),
    ],
)
def test_a_condition_reaches_no_file_and_a_wrong_one_is_told(folder, condition, message):
    secret = [1]
    file = folder.parent / "secret"
    file.write_text("a,b\n")
    with pytest.raises(dt.BadInput, match=message):
        read_cells(folder, where=condition.format(file=file))
    assert secret and {path.name for path in folder.parent.iterdir()} <= {"many", "cache", "secret"}


def test_without_duckdb_a_condition_says_what_to_install_and_all_else_works(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert len(read_cells(folder)) == 60
    with pytest.raises(dt.NotFound, match=r"pip install 'distrust\[query\]'"):
        read_cells(folder, where="asr > 0.5")
