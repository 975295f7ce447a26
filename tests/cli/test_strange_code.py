"""A file of Python runs where the command line names it, and nowhere else: a canary tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import distrust as dt
from distrust.allowed import allowed, check_allowed, code_from, digest_of
from distrust.errors import UnsafeFile
from distrust.models.registry import model

NET = """
open("ran", "w").close()
import near
from torch import nn

def make(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""
STUDY = """
name = "brought"
images = "digits"
{more}

[budgets.cpu]
size = 8
train = 64
test = 40
teacher = {{epochs = 1}}
"""
NAMED = {  # ways in which a study names code
    "teacher": 'teacher = "net.py:make"',
    "student": 'teacher = "wrn10-1"\ndistiller = "kd"\nstudent = "net.py:make"',
    "condenser": 'condenser = "dm[network=net.py:make]"',
    "victim": 'condenser = "random"\nstudent = "./net.py:make"',
    "pair": 'pair = "net.py:make>wrn10-1"\ndistiller = "kd"',
    "detector": 'condenser = "random"\ndetector = "gradient_alignment[network=net.py:make]"',
    "defence": 'condenser = "random"\ndefense = "recondense[network=net.py:make]"',
}


@pytest.fixture
def brought(distrust):
    Path("net.py").write_text(NET)
    Path("near.py").write_text("")
    return distrust


def stands_still():
    return not Path("ran").exists()


@pytest.mark.parametrize("more", NAMED.values(), ids=NAMED)
def test_a_study_alone_runs_no_code(brought, more):
    Path("s.toml").write_text(STUDY.format(more=more))
    said = brought("run", "s.toml", "--jobs", 1)
    assert said.code == 2 and "--allow-code" in said.err and "net.py" in said.err, said
    dry, looked = brought("run", "s.toml", "--dry-run", "--json"), brought("check", "s.toml", "--json")
    for found in (dry, looked):
        assert found.code == 0 and [name.removeprefix("./") for name in found.facts["code"]] == ["net.py:make"]
    assert brought("run", "s.toml", "--only-cached").code == 3
    for command in ("report", "results", "status"):
        brought(command, *(["s.toml" if command == "report" else "brought"] if command != "status" else []))
    assert stands_still()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_the_command_line_allows_runs_in_workers_too(brought, jobs):
    Path("s.toml").write_text(STUDY.format(more=NAMED["teacher"]))
    said = brought("run", "s.toml", "--jobs", jobs, "--allow-code", "net.py", "--json")
    assert said.code == 0 and said.facts["failed"] == 0 and not stands_still()
    Path("ran").unlink()
    [cell] = Path(said.facts["results"]).glob("*.json")
    assert "--allow-code net.py" in json.loads(cell.read_text())["reproduce"]
    for words in (["report", "s.toml"], ["report", "brought", "--overwrite"], ["results", "brought"], ["status"]):
        assert brought(*words).code == 0, words
    assert brought("why", next(Path("runs").glob("[0-9a-f]*")).name).code == 0
    assert brought("run", "s.toml").code == 2, "all of it is cached, and its models are of a stranger's code"
    assert stands_still()


def test_a_stored_record_chooses_no_code(brought):
    """Somebody sends a store in which a usual network's record names a file."""
    Path("s.toml").write_text(STUDY.format(more='teacher = "wrn10-1"'))
    assert brought("run", "s.toml", "--jobs", 1, "--json").code == 0
    for file in Path("runs").glob("*/record.json"):
        record = json.loads(file.read_text())
        if "spec" in record:
            record["spec"]["name"] = "net.py:make"
        else:
            file.unlink()
            continue
        file.write_text(json.dumps(record))
    for words in (["run", "s.toml", "--jobs", 1], ["report", "s.toml", "--overwrite"], ["status"]):
        brought(*words)
    assert stands_still()


def test_metadata_chooses_no_code(brought):
    spec = {"name": "net.py:make", "classes": 10, "channels": 3, "size": 8}
    Path("sent.safetensors").write_bytes(dt.tensors.state_bytes({"a": torch.zeros(2)}, {"spec": spec}))
    for words in (
        ["measure", "--weights", "sent.safetensors", "--images", "digits", "--trigger", "sig"],
        ["scan", "sent.safetensors", "--images", "digits"],
        ["check", "sent.safetensors"],
    ):
        brought(*words)
        assert stands_still(), words
    with pytest.raises(dt.BadInput, match="would be run"):
        dt.load("sent.safetensors")
    assert stands_still()


@pytest.mark.parametrize(
    "words",
    [
        ["layers", "net.py:make", "--size", 8],
        ["run", "s.toml", "--jobs", 1, "--set", 'teacher=["net.py:make"]'],
        ["run", "s.toml", "--jobs", 1, "--set", "condenser=random", "--set", 'student="net.py:make"'],
    ],
)
def test_what_is_typed_is_asked_for(brought, words):
    Path("s.toml").write_text(STUDY.format(more='teacher = "wrn10-1"'))
    assert brought(*words).code == 0 and not stands_still()


def test_in_python_a_study_is_data_and_a_name_is_the_caller_s(brought):
    Path("s.toml").write_text(STUDY.format(more=NAMED["teacher"]))
    with pytest.raises(UnsafeFile, match=r"allow_code='net\.py'"):
        dt.run("s.toml", jobs=1)
    assert stands_still()
    assert dt.run("s.toml", jobs=1, allow_code="net.py").outcome.failed == 0 and not stands_still()
    Path("ran").unlink()
    model("net.py:make", classes=2)
    assert not stands_still()


def test_within_code_from_only_its_files_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with code_from(["a.py"]):
        assert allowed() == (tmp_path / "a.py",)
        check_allowed(["./a.py:make"])
        with code_from():
            check_allowed([f"{tmp_path}/x/../a.py:make"])
            with pytest.raises(UnsafeFile, match="b.py:make"):
                check_allowed(["a.py:make", "b.py:make"])
    check_allowed(["b.py:make"])


def test_a_link_is_the_file_that_it_leads_to(tmp_path):
    (tmp_path / "a.py").touch()
    (tmp_path / "b.py").symlink_to(tmp_path / "a.py")
    with code_from(tmp_path / "b.py"):
        check_allowed([f"{tmp_path}/a.py:make"])


def test_a_key_knows_the_modules_that_a_file_imports(tmp_path):
    net, near, deep = (tmp_path / name for name in ("net.py", "near.py", "parts/deep.py"))
    deep.parent.mkdir()
    for file, text in ((net, "import near, torch\n"), (near, "from parts.deep import a\n"), (deep, "a = 1\n")):
        file.write_text(text)
    seen = {digest_of(net)}
    for file in (net, near, deep):
        file.write_text(file.read_text() + "b = 2\n")
        seen.add(digest_of(net))
    (tmp_path / "other.py").write_text("")
    assert len(seen) == 4 and digest_of(net) in seen


def test_a_changed_module_is_another_teacher(brought):
    from tests.study_fixture import keys

    before = keys("teacher", teacher="net.py:make"), keys("condense", condenser="dm[network=net.py:make]")
    assert before == (keys("teacher", teacher="net.py:make"), keys("condense", condenser="dm[network=net.py:make]"))
    Path("near.py").write_text("x = 1\n")
    assert not before[0] & keys("teacher", teacher="net.py:make")
    assert before[1] and not before[1] & keys("condense", condenser="dm[network=net.py:make]")
