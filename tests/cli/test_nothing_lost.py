"""What a command never removes: finished cells, files of others; and what it says of what is damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .said import PLUGIN

STUDY = """
name = "small"
teacher = "wrn10-1"
attack = "badnets[trigger=patch:white:3,target=5,rate=0.1]"
[budgets.cpu]
size = 8
train = 64
test = 60
[budgets.smoke]
size = 8
train = 32
test = 40
"""


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(Path(folder).rglob("*.json"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the study ran, with three seeds, for results of its own."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.toml").write_text(STUDY)
    words = ["run", "small.toml", "--jobs", "1", "--seeds", "3", "--results", "kept", "--quiet"]
    command = [sys.executable, "-c", "from distrust.cli import main; main()", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture
def small(finished, tmp_path, monkeypatch):
    """The same folder, for one test."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CHANGED = {
    "only-cached, elsewhere": ["--only-cached", "--store", "elsewhere"],
    "fewer seeds": ["--seeds", 1],
    "other seeds": ["--seed", 7, "--seeds", 1],
    "another budget": ["--budget", "smoke", "--seeds", 1],
    "another set of axes": ["--seeds", 1, "--set", 'defense=["none"]', "--set", 'attack=["none"]'],
    "other options": ["--seeds", 1, "--set", "budgets={cpu={size=8, train=32, test=60}}"],
    "a store that lacks something": ["--only-cached", "--seeds", 3],
    "expected": ["--seeds", 3, "--expect", "kept"],
    "expected of nothing": ["--only-cached", "--seeds", 3, "--expect", "kept", "--store", "elsewhere"],
}


@pytest.mark.parametrize("changed", CHANGED)
def test_no_run_takes_from_a_results_folder(distrust, small, changed):
    before = contents("kept")
    assert len(before) == 3
    if changed == "a store that lacks something":
        for record in Path("runs").glob("*/stage.json"):
            if json.loads(record.read_text())["kind"] == "triggered":
                shutil.rmtree(record.parent)
    said = distrust("run", "small.toml", "--jobs", 1, "--results", "kept", *CHANGED[changed])
    after = contents("kept")
    assert said.code in (0, 1, 3), said.err
    assert {name: after[name] for name in before} == before
    assert not Path("runs/results").exists() and not Path("elsewhere").exists()
    if "expected" in changed:
        assert after == before and "kept is left as it is" in said.err
    if changed == "another budget":
        assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"smoke"}
        assert "these are in kept/smoke" in said.err
        assert distrust("results", "kept/smoke", "--json", "--cells").facts["cells"][0]["budget"] == "smoke"
    if changed == "fewer seeds":
        assert "kept has 2 cells" in said.err and "beside those of this run" in said.err


def test_what_was_not_run_is_not_written(distrust):
    Path("small.toml").write_text(STUDY)
    said = distrust("run", "small.toml", "--only-cached", "--results", "kept", "--json")
    assert said.code == 3 and said.facts["results"] is None and os.listdir() == ["small.toml"]


def test_expected_of_another_budget_cannot_be_compared(distrust, small):
    said = distrust("run", "small.toml", "--budget", "smoke", "--expect", "kept")
    assert said.code == 2 and "no cell in kept of budget 'smoke'" in said.err and "Known: cpu" in said.err
    next(Path("kept").iterdir()).write_text("{")
    said = distrust("run", "small.toml", "--expect", "kept")
    assert said.code == 2 and "is not a cell" in said.err


def test_each_budget_has_its_place_beside_the_store(distrust):
    Path("small.toml").write_text(STUDY)
    assert distrust("run", "small.toml", "--budget", "smoke", "--json", "--jobs", 1).facts["results"] == (
        "runs/results/small/smoke"
    )
    assert distrust("results", "small", "--json", "--cells").facts["cells"][0]["budget"] == "smoke", (
        "the only one there is"
    )
    assert distrust("run", "small.toml", "--json", "--jobs", 1).facts["results"] == "runs/results/small"
    assert distrust("results", "small", "--json", "--cells").facts["cells"][0]["budget"] == "cpu"


# files of others


@pytest.mark.parametrize("words", ["run small.toml --jobs 1 --seeds 3 --report", "report kept --out"])
def test_a_report_replaces_only_a_report(distrust, small, words):
    Path("notes.html").write_text("<title>mine</title>")
    Path("link.html").symlink_to("notes.html")
    Path("folder.html").mkdir()
    os.mkfifo("fifo.html")
    for name, why in (
        ("notes.html", "nothing that Distrust wrote. Give another place, or --overwrite"),
        ("link.html", "is a link"), ("folder.html", "is a folder"), ("fifo.html", "is a device"),
        ("small.toml", "is a study"),
    ):  # fmt: skip
        said = distrust(*words.split(), name)
        assert said.code == 2 and why in said.err, name
        assert "small (cpu)" not in said.err, "it is said before any work"
        if name not in ("notes.html",):
            assert distrust(*words.split(), name, "--overwrite").code == 2
    assert Path("notes.html").read_text() == "<title>mine</title>" and Path("small.toml").read_text() == STUDY
    for _ in range(2):
        assert distrust(*words.split(), "page.html").code == 0
    assert distrust(*words.split(), "notes.html", "--overwrite").code == 0
    assert 'content="Distrust"' in Path("notes.html").read_text()


# what is damaged


@pytest.mark.parametrize("content", ["{}", "[]", "\udcff", '{"state": "done"}', '{"seconds": "<script>"}', None])
def test_a_damaged_record_is_named_and_the_rest_is_shown(distrust, small, content):
    (cell, *_) = [json.loads(text) for text in contents("kept").values()]
    key = cell["keys"]["teacher"]
    record = Path("runs") / key / "stage.json"
    if content is None:
        found = json.loads(record.read_text()) | {"kind": [], "seconds": "<script>"}
        content = json.dumps({k: v for k, v in found.items() if k not in ("sum", "files", "key")})
    whole = distrust("status", "--json").facts["stages"]
    record.write_bytes(content.encode(errors="surrogateescape"))
    said = distrust("status", "--json")
    assert said.code == 1 and said.facts["stages"] == whole - 1 and list(said.facts["damaged"]) == [key]
    assert f"{key[:12]} cannot be used: stage.json" in distrust("status").out
    said = distrust("why", key)
    assert said.code == 2 and "cannot be used" in said.err and "Run its study again" in said.err
    said = distrust("why", cell["keys"]["triggered"])
    assert said.code == 0 and "cannot be used" in said.out, "the others of its ancestors are shown"
    said = distrust("report", "kept", "--out", "page.html")
    assert said.code == 0 and said.err.count(f"stage {key} cannot be used") == 1 and "It is left out" in said.err
    for path in Path("kept").iterdir():
        path.unlink()
    again = distrust("run", "small.toml", "--jobs", 1, "--seeds", 3, "--results", "kept", "--json")
    assert again.code == 0 and again.facts["ran"] == 1 and f"set aside as damaged-{key}" in again.err
    assert [json.loads(text)["acc"] for text in contents("kept").values()][0] == cell["acc"]
    after = distrust("status", "--verify", "--json")
    assert after.code == 0 and after.facts["damaged"] == {} and len(after.facts["set_aside"]) == 1


def test_bits_that_flipped_are_found_by_asking(distrust, small):
    (file, *_) = sorted(Path("runs").glob("*/model*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert distrust("status").code == 0
    said = distrust("status", "--verify")
    assert said.code == 1 and f"{file.parent.name[:12]} cannot be used: {file.name} is not what was written" in said.out


@pytest.mark.parametrize("content", [b"\xff", b"{}", b'{"seed": {}}', b"[" * 99999])
def test_a_damaged_cell_is_named_and_the_rest_is_shown(distrust, small, content):
    file = sorted(Path("kept").iterdir())[0]
    file.write_bytes(content)
    for words in (["results", "kept"], ["report", "kept", "--out", "page.html"]):
        said = distrust(*words)
        assert said.code == 0 and f"{file} is not a cell" in said.err and "left out" in said.err
    assert len(distrust("results", "kept", "--json", "--cells").facts["cells"]) == 2


# what fails, and what is stopped


def test_a_control_that_failed_is_told_with_its_stage(distrust):
    counted = "    SEEN.append(1)\n    if len(SEEN) == 2:\n        raise ValueError('broken')\n    return model"
    source = PLUGIN.replace("    raise {raised}", counted).replace("@defense", "SEEN = []\n\n@defense")
    Path("mine.py").write_text(source)
    Path("small.toml").write_text(STUDY.replace("[budgets.cpu]", 'defense = "mine"\n[budgets.cpu]', 1))
    words = ["run", "small.toml", "--jobs", 1, "--plugin", "mine.py", "--json"]
    for _ in range(2):
        said = distrust(*words)
        (cell,) = [json.loads(text) for text in contents("runs/results/small").values()]
        assert cell["state"] == "done" and cell["base"] is None and "no-control" in cell["flags"]
        (line,) = said.facts["failures"]
        assert said.code == 2 and line.startswith("failed defense mine") and line.endswith("ValueError: broken")


def test_a_run_that_is_terminated_ends_as_by_ctrl_c(tmp_path):
    (tmp_path / "small.toml").write_text(STUDY.replace("train = 64", "train = 1000\nteacher = {epochs = 1000}"))
    code = "from distrust.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "small.toml", "--jobs", "1", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "epochs" not in (line := process.stderr.readline()) and "to run" not in line:
            assert line
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and json.loads(out)["error"] == "Interrupted" and "Traceback" not in err
