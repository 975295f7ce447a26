"""Running studies, and looking at what came out."""

import gc
import json
import shutil
import sys
from pathlib import Path

import pytest

import distrust as dt
from distrust import api

from .said import PLUGIN, STUDY


def test_run_prints_one_object_and_leaves_cells_and_a_report(ran):
    said = ran.said
    assert said.code == 0, said.err
    found = said.facts
    assert (found["study"], found["cells"], found["failed"], found["skipped"]) == ("trial", 4, 0, 0)
    assert found["ran"] == found["stages"] == found["to_run"] and found["cached"] == 0
    assert "[1/" in said.err and "done teacher" in said.err and "none → none" not in found["answer"]
    cells = [json.loads(p.read_text()) for p in (ran.folder / found["results"]).glob("*.json")]
    assert len(cells) == 4 and {c["state"] for c in cells} == {"done"}
    attacked = [c for c in cells if c["attack"] != "none"]
    assert all(c["base"] is not None and c["reproduce"].startswith("distrust run trial.toml") for c in attacked)
    page = (ran.folder / "page.html").read_text()
    assert "distrust run trial.toml --jobs 1 --report page.html --json" in page and 'data-picture="' in page


def test_a_second_run_has_nothing_to_do(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    for mode in ((), ("--only-cached",), ("--retry",)):
        said = distrust("run", "trial.toml", "--jobs", 1, "--json", *mode)
        found = said.facts
        assert said.code == 0 and found["ran"] == found["to_run"] == 0 and found["cached"] == found["stages"]
        assert "0 to run, about 0 s" in said.err
    said = distrust("run", "trial.toml", "--jobs", 1, "--quiet")
    assert said.code == 0 and said.err == "" and said.out.startswith("attack") and "finetune" in said.out


def test_a_dry_run_tells_plan_and_cost_and_does_nothing(distrust):
    Path("trial.toml").write_text(STUDY)
    said = distrust("run", "trial.toml", "--dry-run", "--quiet")
    assert said.code == 0 and said.err == "" and "trial (cpu): 4 cells" in said.out and "to run, " in said.out
    found = distrust("run", "trial.toml", "--dry-run", "--json", "--seeds", 2).facts
    assert found["cells"] == 8 and found["to_run"] == found["stages"]
    assert sum(row["to_run"] for row in found["by_kind"]) == found["to_run"] and len(found["cell_ids"]) == 8
    kinds = [row["kind"] for row in found["by_kind"]]
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[1 : 2 + len(kinds)]] == ["stage", *kinds]
    ids = [line.split()[1] for line in lines if line.startswith("   ")]
    assert ids == [name for name in found["cell_ids"] if name.endswith("-s0")], "to be given to --only"
    assert not Path("runs").exists()
    said = distrust("run", "trial.toml", "--only-cached", "--json")
    assert said.code == 3 and said.facts["ran"] == 0, "nothing is there to be judged"
    assert "not run yet" in distrust("run", "trial.toml", "--only-cached").out


def test_a_dry_run_of_a_table_of_defences_says_where_it_is_not_fair(distrust):
    unfair = STUDY.replace('"finetune[epochs=1]"', '"finetune", "fst[alpha=[0.1,0.2]]"')
    Path("trial.toml").write_text(f"protocol = true\n{unfair}")
    said = distrust("run", "trial.toml", "--dry-run")
    lines = [line for line in said.out.splitlines() if line.startswith("off-protocol: ")]
    assert said.code == 0 and len(lines) == 3, "two of them for two attacks, said once"
    assert lines[0].startswith("off-protocol: fst[alpha=0.1]: its 10 optimiser steps and finetune's 20 are more than")
    assert lines[1].startswith("off-protocol: fst[alpha=0.2]: alpha=0.2 is not the default (0.1)")
    told = distrust("run", "trial.toml", "--dry-run", "--json").facts["breaches"]
    assert told == lines
    Path("trial.toml").write_text(unfair)
    assert "off-protocol" not in distrust("run", "trial.toml", "--dry-run").out


def test_only_some_cells(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    ids = sorted(path.stem for path in Path("runs/results/trial").glob("*.json"))
    one = [name for name in ids if "badnets" in name][0]
    found = distrust("run", "trial.toml", "--jobs", 1, "--only", one, "--results", "one", "--json").facts
    assert found["cells"] == 1 and [path.stem for path in Path("one").glob("*.json")] == [one]
    expected = distrust("run", "trial.toml", "--jobs", 1, "--only", one, "--expect", "runs/results/trial", "--json")
    assert expected.code == 0 and expected.facts["differences"] == []
    said = distrust("run", "trial.toml", "--only", "nothing")
    assert said.code == 2 and "no cell of trial 'nothing'" in said.err


def test_expected_results_that_differ_are_a_finding(distrust, ran, monkeypatch, tmp_path):
    monkeypatch.chdir(ran.folder)
    words = ["run", "trial.toml", "--jobs", 1, "--expect"]
    assert distrust(*words, "runs/results/trial").code == 0
    for path in Path("runs/results/trial").glob("*.json"):
        cell = json.loads(path.read_text())
        (tmp_path / path.name).write_text(json.dumps({**cell, "acc": cell["acc"] / 2}))
    said = distrust(*words, tmp_path, "--json")
    assert said.code == 1 and len(said.facts["differences"]) == 4 and "acc" in said.facts["differences"][0]
    assert "expected" in distrust(*words, tmp_path).out
    assert distrust(*words, tmp_path / "nowhere").code == 2


def test_unknown_budgets_methods_and_bad_studies_stop_before_work(distrust):
    Path("trial.toml").write_text(STUDY)
    said = distrust("run", "trial.toml", "--budget", "cpuu")
    assert said.code == 2 and "Did you mean 'cpu'?" in said.err
    for old, new, message in (
        ("badnets", "badnet", "Did you mean 'badnets'"),
        ("rate=0.1", "rate=2", "less than or equal to 1"),
        ("wrn10-1", "wrn11-1", "Take wrn10-1"),
        ('name = "trial"', "name =", "is not TOML"),
        ("size = 8", "sise = 8", "sise"),
    ):
        Path("bad.toml").write_text(STUDY.replace(old, new))
        said = distrust("run", "bad.toml")
        assert said.code == 2 and message in said.err and said.out == ""
    assert not Path("runs").exists()


def test_failed_stages_are_told_and_retried(distrust):
    Path("mine.py").write_text(PLUGIN.format(raised="ValueError('broken')"))
    Path("trial.toml").write_text(STUDY.replace("finetune[epochs=1]", "mine"))
    words = ["run", "trial.toml", "--plugin", "mine.py", "--jobs", 1]
    first = distrust(*words, "--json")
    assert first.code == 2 and first.facts["failed"] > 0 and "failed defense mine" in first.err
    assert "ValueError: broken" in distrust(*words, "--quiet").out
    assert distrust(*words, "--json").facts["ran"] == 0
    dry = distrust(*words, "--retry", "--dry-run", "--json").facts
    assert 0 < dry["to_run"] < dry["stages"]
    again = distrust(*words, "--retry", "--json").facts
    assert 0 < again["ran"] <= dry["to_run"]
    status = distrust("status", "--json").facts
    assert status["by_kind"]["defense failed"] == 2 and "ValueError: broken" in distrust("status").out
    key = next(iter(status["failed"]))
    assert "ValueError: broken" in distrust("why", key).out


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(distrust, stranger, monkeypatch):
    Path("mine.py").write_text(PLUGIN.format(raised="Skip('not here')"))
    Path("trial.toml").write_text(STUDY.replace("finetune[epochs=1]", "mine"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    said = distrust("run", "trial.toml", "--plugin", "mine.py", "--jobs", 1, "--json")
    assert said.code == 0 and said.facts["skipped"] > 0 and "[1/" not in said.err
    assert "stages" in said.err and "Skip: not here" in said.err
    words = ["--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images, "--out", "out"]
    said = distrust("purify", "finetune[epochs=1]", *words)
    assert said.code == 0 and "finetune[epochs=1]: loss" in said.err


def test_a_remote_store_keeps_stages_and_the_cells_are_here(distrust):
    Path("small.toml").write_text(
        'name = "small"\nteacher = "wrn10-1"\n[budgets.cpu]\nsize = 8\ntrain = 64\ntest = 20\n'
    )
    words = ["small.toml", "--store", "memory://cli", "--jobs", 1, "--json"]
    found = distrust("run", *words).facts
    assert (
        found["ran"] == 2 and found["results"] == "results/small" and len(list(Path(found["results"]).iterdir())) == 1
    )
    assert distrust("run", *words).facts["cached"] == 2 and not Path("runs").exists()
    assert len(distrust("results", "small", "--json", "--cells").facts["cells"]) == 1
    assert distrust("status", "--store", "memory://cli", "--json").facts["by_kind"] == {
        "predict done": 1,
        "teacher done": 1,
    }


def test_a_table_that_is_wider_than_the_terminal_leaves_out_its_runs(ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    found = dt.results("trial")
    wide, narrow = found.text(), found.text(100)
    assert found.text(400) == wide == str(found) and "[" in wide.splitlines()[1]
    assert max(map(len, narrow.splitlines()[:5])) <= 100 and "[" not in narrow.splitlines()[1]
    assert narrow.splitlines()[-1] == wide.splitlines()[-1] == found.answer


def test_results_by_name_and_by_folder(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    by_name = distrust("results", "trial", "--json").facts
    by_folder = distrust("results", "runs/results/trial", "--json").facts
    assert by_name == by_folder and by_name["answer"] and "cells" not in by_name
    cells = distrust("results", "trial", "--json", "--cells").facts["cells"]
    assert len(by_name["rows"]) == len(cells) == 4, "one seed: a row is a cell"
    first = by_name["rows"][0]
    assert first["acc"]["mean"] == first["acc"]["values"][0] == cells[0]["acc"] and first["seeds"] == [0]
    assert first["acc"]["interval"] == cells[0]["acc_interval"] and "one-seed" in first["flags"]
    said = distrust("results", "trial")
    assert said.code == 0 and said.out.splitlines()[0].split()[:2] == ["attack", "distiller"] and "finetune" in said.out
    (ran.folder / "trial" / "cat").mkdir(parents=True, exist_ok=True)
    assert distrust("results", "trial", "--json").facts == by_name, "a folder of pictures is no results"
    shutil.rmtree(ran.folder / "trial")
    said = distrust("results", "trail")
    assert said.code == 2 and "Did you mean 'runs/results/trial'?" in said.err
    assert distrust("results", "trial", "--store", "elsewhere").code == 2


def test_results_are_read_without_looking_for_garbage_which_goes_on_afterwards(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    looked, read = [], dt.results
    monkeypatch.setattr(dt, "results", lambda *words, **more: looked.append(gc.isenabled()) or read(*words, **more))
    assert distrust("results", "trial").code == 0 and distrust("results", "trail").code == 2
    assert looked == [False, False] and gc.isenabled()


def test_a_report_from_a_study_file_a_folder_and_a_name(distrust, ran, monkeypatch, tmp_path):
    monkeypatch.chdir(ran.folder)
    for i, source in enumerate(("trial.toml", "runs/results/trial", "trial")):
        out = tmp_path / f"{i}.html"
        told = distrust("report", source, "--out", out, "--json")
        assert told.code == 0 and told.facts == {"report": str(out), "cells": 4}
        page = out.read_text()
        assert "trial" in page and 'data-picture="' in page and f"distrust report {source}" in page
    monkeypatch.chdir(tmp_path)
    said = distrust("report", ran.folder / "runs/results/trial")  # neither the study nor the store is here
    assert (
        said.code == 0
        and said.out == "report.html: 4 cells\n"
        and 'data-picture="' not in Path("report.html").read_text()
    )


def test_a_report_of_what_never_ran_says_so(distrust):
    Path("trial.toml").write_text(STUDY)
    assert distrust("report", "trial.toml", "--out", "r.html").code == 0
    assert "Nothing was measured" in Path("r.html").read_text()


def test_status_and_why(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    found = distrust("status", "--json").facts
    assert (
        found["stages"] == ran.said.facts["stages"] and found["failed"] == {} and found["by_kind"]["teacher done"] == 2
    )
    assert f"runs: {found['stages']} stages" in distrust("status").out
    assert distrust("status", "--store", "empty", "--json").facts["stages"] == 0
    records = {p.parent.name: json.loads(p.read_text()) for p in Path("runs").glob("*/stage.json")}
    key = next(
        k for k, r in records.items() if r["kind"] == "predict" and "defense" in records[r["parents"][0]]["kind"]
    )
    told = distrust("why", key[:10], "--json").facts
    assert told["key"] == key and told["recipe"] == records[key]["recipe"]
    said = distrust("why", key[:10])
    assert said.code == 0 and said.out.startswith(key) and "← " in said.out and "teacher wrn10-1 on" in said.out
    wrong = distrust("why", ("0" if key[0] != "0" else "1") + key[1:])
    assert wrong.code == 2 and f"Did you mean '{key}'?" in wrong.err
    assert distrust("why", "").code == 2 and "Give more of it" in distrust("why", "").err


@pytest.mark.slow
def test_the_demo_gives_an_answer_and_writes_a_report(distrust, monkeypatch):
    """A short one: whether the whole one says what it should is seen where it is run, by `make demo` in `.ci/run`."""
    short = (
        api.DEMO.read_text()
        .replace("epochs = 12", "epochs = 2")
        .replace("epochs=15", "epochs=1")
        .replace("tune(0.2,0.1,0.02)", "tune(0.1)")
    )
    monkeypatch.setattr(api, "DEMO", Path("demo.toml"))
    Path("demo.toml").write_text(short)
    said = distrust("demo", "--jobs", 1, "--quiet", "--json")
    found = said.facts
    assert said.code == 0 and said.err == "" and found["failed"] == 0 and short.count("epochs = 2") == 2
    page = Path("report.html").read_text()
    assert "distrust demo" in page and len(page) < 2_000_000
    cells = [json.loads(file.read_text()) for file in Path("runs/results/demo").glob("*.json")]
    assert len(cells) == found["cells"] == 6 and {cell["n"] for cell in cells} == {404}
    assert distrust("demo", "--quiet", "--json").facts["ran"] == 0
    assert distrust("results", "demo", "--json").facts["answer"] == found["answer"] > ""
