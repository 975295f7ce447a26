"""Tables, figures and citations on the command line: what is printed, what is written, and the exit codes."""

import csv
import io
from pathlib import Path

from .said import STUDY


def test_a_table_from_a_study_file_a_folder_and_a_name(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    words = ("--format", "latex", "--columns", "acc,asr")
    told = [distrust("table", study, *words) for study in ("trial.toml", "runs/results/trial", "trial")]
    assert {said.code for said in told} == {0} and len({said.out for said in told}) == 1
    assert told[0].out.startswith("% \\usepackage{booktabs}\n\\begin{table}") and "\\toprule" in told[0].out
    said = distrust("table", "trial", "--rows", "attack=badnets", "--rows", "defense=finetune", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(said.out))
    assert said.code == 0 and row["defense"] == "finetune" and row["flags"]
    facts = distrust("table", "trial", "--json", "--intervals", "none").facts
    assert facts["columns"][:3] == ["attack", "model", "defense"] and len(facts["rows"]) == 4
    assert "acc_low" not in facts["rows"][0] and facts["table"].startswith("attack")
    said = distrust("table", "trial", "--format", "markdown")
    caption, blank, head = said.out.splitlines()[:3]
    assert caption.startswith("Study `trial`") and not blank.strip() and head.startswith("| attack | model |")


def test_a_figure_of_every_kind(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    for kind, source, out in (
        ("map", "trial", "m.svg"), ("frontier", "trial", "f.png"), ("triggers", "trial.toml", "t.pdf"),
        ("triggers", "trial", "t.pdf"),
    ):  # fmt: skip
        said = distrust("figure", source, kind, "--out", out)
        assert said.code == 0 and said.out == f"{out}: {kind} of {source}\n" and Path(out).stat().st_size > 2000
    assert distrust("figure", "trial", "map", "--out", "m.svg", "--json").facts == {"figure": "m.svg", "kind": "map"}
    Path("mine.svg").write_text("<svg/>")
    said = distrust("figure", "trial", "map", "--out", "mine.svg")
    assert said.code == 2 and "--overwrite" in said.err and Path("mine.svg").read_text() == "<svg/>"
    assert distrust("figure", "trial", "map", "--out", "mine.svg", "--overwrite").code == 0
    said = distrust("figure", "trial", "curve", "--out", "c.svg")
    assert said.code == 2 and "Type: distrust figure trial map" in said.err and not Path("c.svg").exists()


def test_what_never_ran_has_neither_table_nor_figure_nor_entry(distrust):
    Path("trial.toml").write_text(STUDY)
    for words in (["table", "trial.toml"], ["figure", "trial.toml", "map", "--out", "f.svg"], ["cite", "trial.toml"]):
        said = distrust(*words)
        assert said.code == 3 and "Type: distrust run trial.toml" in said.err and said.out == ""
    assert not Path("f.svg").exists()


def test_what_is_wrong_is_said_in_one_line(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    for words, message in (
        ("table trial --columns acx", "no column of trial 'acx'. Did you mean 'acc'"),
        ("table trial --format latx", "Did you mean 'latex'"),
        ("table trial --rows defense=nad", "no row of trial with defense 'nad'. Known: finetune, none."),
        ("table trial --intervals 95", "no kind of interval '95'"),
        ("figure trial map --metric carred --out f.svg", "Did you mean 'carried'"),
        ("cite trial --cell nothing", "no cell of trial 'nothing'"),
    ):
        said = distrust(*words.split())
        assert said.code == 2 and said.out == "" and said.err.count("\n") == 1 and message in said.err


def test_a_citation_names_versions(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    alone, study = distrust("cite"), distrust("cite", "trial")
    assert (
        alone.code == study.code == 0
        and study.out.startswith(alone.out.rstrip())
        and "@misc{distrust-trial" in study.out
    )
    cell = distrust("results", "trial", "--json", "--cells").facts["cells"][0]["id"]
    told = distrust("cite", "trial", "--cell", cell, "--json").facts["bibtex"]
    assert cell in told and "measured with Distrust 0.1.0" in told and told.count("@misc{") == 3
