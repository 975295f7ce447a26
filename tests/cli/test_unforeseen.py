"""What nobody foresaw: one sentence, with --debug for where it arose; a closed output; code that ends or never ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distrust.cli import command

from .said import PLUGIN, STUDY

SCRIPT = Path(sys.executable).with_name("distrust")


@pytest.mark.parametrize("error", [KeyError("model"), RecursionError("too\ndeep"), ValueError(), SystemExit(0)])
def test_an_error_that_nobody_foresaw_is_one_sentence(distrust, monkeypatch, error):
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("distrust.check", broken)
    said = distrust("check", "a.pt")
    assert said.code == 2 and said.out == "" and said.err.startswith(f"{type(error).__name__}: "), said
    assert said.err.count("\n") == 1 and (command.DEFECT in said.err) == isinstance(error, Exception)
    assert "Traceback" in distrust("check", "a.pt", "--debug").err
    assert distrust("check", "a.pt", "--json").facts["error"] == type(error).__name__


def test_a_place_that_cannot_be_used_is_no_defect(distrust):
    Path("a").write_text("")
    for word in ("n" * 300, "a/b"):
        said = distrust("run", word)
        assert said.code == 2 and command.DEFECT not in said.err and word in said.err


def test_code_of_a_user_that_fails_is_named(distrust):
    for text, why in (
        ("import nowhere", "ModuleNotFoundError"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ):
        Path("mine.py").write_text(text)
        for words in (["list", "--plugin", "mine.py"], ["layers", "mine.py:make"]):
            said = distrust(*words)
            assert said.code == 2 and f"mine.py failed: {why}" in said.err, said


@pytest.mark.parametrize("words", ["list", "list --json", "--help", "list --help", "show nothing", "nothing"])
def test_an_output_that_nobody_reads_ends_quietly(words, tmp_path):
    for stream in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
        done = subprocess.run([SCRIPT, *words.split()], **both, text=True, cwd=tmp_path, timeout=300)
        os.close(write)
        assert done.returncode == {"show nothing": 2, "nothing": 4}.get(words, 0)
        assert "Traceback" not in (said := f"{done.stdout}{done.stderr}") and "BrokenPipe" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_is_told(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([SCRIPT, "list"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "No space left" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_stages_that_end_the_process_or_never_end_have_failed(distrust):
    Path("mine.py").write_text(PLUGIN.format(raised="SystemExit(0)"))
    Path("trial.toml").write_text(STUDY.replace("finetune[epochs=1]", "mine").replace('"none", "badnets', '"badnets'))
    said = distrust("run", "trial.toml", "--plugin", "mine.py", "--jobs", 1)
    assert said.code == 2 and "failed defense mine" in said.out and "SystemExit: 0" in said.out
    endless = PLUGIN.replace('"""Stop."""', "import time; time.sleep(600)").format(raised="ValueError")
    Path("mine.py").write_text(endless)
    said = distrust("run", "trial.toml", "--plugin", "mine.py", "--jobs", 1, "--retry", "--stage-timeout", 2)
    assert said.code == 2 and "Timeout: it was not done in 2 s" in said.out
    assert distrust("status", "--json").facts["by_kind"]["defense failed"] == 2
    again = distrust("run", "trial.toml", "--plugin", "mine.py", "--jobs", 1, "--json").facts
    assert again["ran"] == 0 and again["cached"] > 0


STUDIES = {
    b"\xff": "not UTF-8 (byte 0)", b"a = " + b"[" * 10**5: "nested too deep", b"a = " + b"9" * 5000: "is not TOML",
    b"grid = 1": "grid", b'grid = ["a"]': "grid", b"[budgets.cpu]\naxes = 1": "axes",
    b'budgets_from = "trial.toml"\nbudgets = [1]': "each of the budgets is a table",
    b'teacher = "none"': "teacher 'none' leaves nothing to measure",
}  # fmt: skip


@pytest.mark.parametrize("content", STUDIES)
def test_a_study_of_another_kind_is_told(distrust, content):
    Path("trial.toml").write_text(STUDY)
    Path("odd.toml").write_bytes(b"" if content[:1] in b"\xff" else b'name = "odd"\n')
    with Path("odd.toml").open("ab") as file:
        file.write(content)
    for words in ("check", "run --only-cached", "run --dry-run", "report"):
        said = distrust(*words.split(), "odd.toml")
        assert said.code == 2 and STUDIES[content] in said.err and said.err.count("\n") == 1, said
    assert not Path("runs").exists()
