"""Studies from Python: plan, run, results and report, and the command that makes a cell again."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

import distrust as dt
from distrust.api import _toml
from distrust.registry import registry
from distrust.study import read_study

STUDY = """
name = "small"
question = "Does it fire?"
teacher = "wrn10-1"
attack = ["none", "badnets[trigger=patch:white:3,target=5,rate=0.1]"]
[budgets.cpu]
size = 8
train = 64
test = 60
teacher = {epochs = 1, batch_size = 64}
"""


@pytest.fixture
def small(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(STUDY)
    return "small.toml"


def test_a_plan_says_what_it_would_do_and_leaves_nothing(small):
    planned = dt.plan(small, jobs=1)
    assert str(planned).startswith("small (cpu): 2 cells, 6 stages, 6 to run, ")
    assert planned.record()["to_run"] == 6 and len(planned.waiting) == 6
    assert {cell["state"] for cell in planned.look().cells} == {"missing"}
    assert not Path("runs").exists()
    with pytest.raises(dt.NotFound, match="Did you mean 'cpu'"):
        dt.plan(small, budget="cpuu")


def test_a_run_a_second_one_and_its_results(small):
    told = []
    first = dt.run(small, jobs=1, tell=lambda event, stage, record: told.append(event))
    assert first.outcome.ran == 6 == told.count("done") and first.folder == Path("runs/results/small")
    again = dt.run(small, jobs=1, expect=first.folder)
    assert (again.outcome.ran, again.outcome.cached, again.differences) == (0, 6, ())
    assert again.cells == first.cells and str(again).endswith(first.answer)
    lines = str(first).splitlines()
    assert lines[0].split()[:3] == ["attack", "distiller", "defence"] and lines[1].startswith("none ")
    assert "<td>badnets</td>" in first._repr_html_()
    found = dt.results("small")
    ids = {cell["id"] for cell in first.cells}
    assert found.folder == first.folder and {cell["id"] for cell in found.cells} == ids
    with pytest.raises(dt.NotFound, match="Did you mean 'runs/results/small'"):
        dt.results("smal")


def test_a_report_of_a_run_of_results_and_of_a_file(small):
    ran = dt.run(small, jobs=1)
    for i, source in enumerate((ran, dt.results("small"), small, "small")):
        shown = dt.report(source, f"{i}.html", made_by="me & mine")
        page = Path(f"{i}.html").read_text()
        assert len(shown.cells) == 2 and "data:image/png" in page and "me &amp; mine" in page
        assert "Does it fire?" in page, "the study's question comes with its plan"


def test_the_command_of_a_cell_names_what_was_changed(small, monkeypatch):
    monkeypatch.setattr(registry, "files", [Path.cwd() / "mine.py", Path("/elsewhere/other.py")])
    changes = {"attack": ["none"], "question": 'a "b"', "budgets": {"cpu": {"size": 8, "train": 64}}}
    planned = dt.plan(small, changes=changes, seeds=2, first_seed=3, jobs=1)
    words = shlex.split(planned.look().cells[1]["reproduce"])
    assert words[:3] == ["distrust", "run", small] and words[-4:] == ["--seed", "4", "--seeds", "1"]
    assert [words[i + 1] for i, word in enumerate(words) if word == "--plugin"] == ["mine.py", "/elsewhere/other.py"]
    given = [words[i + 1].partition("=") for i, word in enumerate(words) if word == "--set"]
    asked = {name: tomllib.loads(f"value = {value}")["value"] for name, _, value in given}
    assert asked == changes and read_study(small, **asked) == planned.plan.study.model_copy(update={"seeds": 1})
    assert json.loads(_toml(True)) is True and _toml(("a", 1.5)) == '["a", 1.5]'


def test_the_demo_is_a_study_by_that_name():
    cells = dt.plan("demo", jobs=1, store="memory://demo").look().cells
    assert {cell["reproduce"] for cell in cells} == {"distrust demo"}
