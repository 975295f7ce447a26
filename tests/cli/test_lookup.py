"""list, show, layers and check."""

from pathlib import Path

import torch

from distrust import Backdoor
from distrust.cli.command import _folded
from distrust.methods import triggers

from .said import PLUGIN, STUDY


def test_list_and_show_know_every_method(distrust):
    found = distrust("list", "--json").facts
    assert {"triggers", "attacks", "distillers", "defenses", "models"} <= set(found)
    for kind in set(found) - {"models"}:
        assert set(distrust("list", kind, "--json").facts[kind]) == set(found[kind])
        for name, summary in found[kind].items():
            card = distrust("show", f"{kind}/{name}", "--json").facts
            assert (card["name"], card["kind"], card["words"]) == (name, kind, summary) and card["differs"]
            assert all(option["about"] and option["bounds"] for option in card["options"])
            shown = distrust("show", f"{kind}/{name}")
            assert shown.code == 0 and card["paper"] in shown.out
    said = distrust("list")
    assert said.code == 0 and "attacks:\n  adba " in said.out and "  wrn{depth}-{width}" in said.out
    assert "place: 1 (training data)" in distrust("show", "badnets").out
    assert distrust("show", "blend", "--json").facts["kind"] == "triggers"


def test_sentences_are_broken_between_words_and_tables_are_left():
    lines = ["  adba   teacher   one two three four five six seven eight", "a  b  c  d " + 60 * "e", 60 * "x"]
    folded = [*_folded(lines, 44)]
    assert folded[:2] == ["  adba   teacher   one two three four five", "                   six seven eight"]
    assert folded[2:] == lines[1:], "columns of numbers, and a word that is longer than a line"
    assert [*_folded(lines, 0)] == lines, "nobody reads it on a terminal"
    assert [*_folded(["", "   a long sentence that goes on and on and on"], 40)][1:] == [
        "   a long sentence that goes on and on", "   and on",
    ]  # fmt: skip


def test_a_list_says_what_each_works_on(distrust):
    lines = {line.split()[0]: line for line in distrust("list", "defenses").out.splitlines()[1:]}
    assert " classifier " in lines["nad"] and " encoder " in lines["mimic"] and "classifier or encoder" in lines["clp"]
    assert "  training data  BadNets: a patch on" in distrust("list").out


def test_a_kind_is_listed_with_its_papers(distrust):
    said = distrust("list", "distillers").out
    assert said.count("\n") >= 23 and "arXiv 1503.02531" in said and "arXiv 1904.01866" in said
    assert len(distrust("list", "distillers", "--json").facts["distillers"]) == 12


def test_a_plugin_is_listed_and_shown(distrust):
    Path("mine.py").write_text(PLUGIN.format(raised="Skip('no')"))
    assert "mine" in distrust("list", "defenses", "--plugin", "mine.py", "--json").facts["defenses"]
    assert distrust("show", "mine", "--plugin", "mine.py").out.startswith("mine (defenses): Stop.")
    assert distrust("check", "mine.py", "--json").facts == {
        "file": "mine.py", "safe": True, "is": "method", "name": "mine", "text": "a method: mine (parsed, not run)",
        "next": "distrust show mine --plugin mine.py, which runs it",
    }  # fmt: skip


def test_layers_shows_paths_shapes_and_group_ends(distrust, stranger):
    found = distrust("layers", "wrn10-1", "--size", 8, "--channels", 1, "--classes", 5, "--json").facts
    rows = {row["path"]: row for row in found["layers"]}
    assert [p for p, row in rows.items() if row["group_end"]] == ["block1", "block2", "block3"]
    assert rows["block3"]["shape"] == [64, 2, 2] and rows["fc"]["shape"] == [5] and found["parameters"] > 70_000
    said = distrust("layers", f"{stranger.code}:factory")
    assert said.code == 0 and "● block3" in said.out and "64×8×8" in said.out


def test_check_says_what_a_file_is(distrust, stranger, tmp_path):
    Path("trial.toml").write_text(STUDY)
    Path("bad.toml").write_text(STUDY.replace("finetune", "finetuna"))
    Path("torn.pt").write_bytes(stranger.attacked.read_bytes()[:-400])
    Path("two.py").write_text("x = 1")
    saved = Backdoor(triggers.patch("white", size=3), target=5).save(tmp_path / "trigger.json")
    kinds = {"trial.toml": "study", saved: "trigger", stranger.attacked: "weights", stranger.images: "images"}
    for file, kind in kinds.items():
        told = distrust("check", file, "--json")
        assert told.code == 0 and told.facts["is"] == kind and told.facts["safe"] is True
        assert distrust("check", file).out == f"{told.facts['text']}\nNext: {told.facts['next']}\n"
    assert distrust("check", "trial.toml", "--json").facts["cells"] == 4
    assert "1347 train, 450 test, 1×8×8, 10 classes" in distrust("check", stranger.images).out
    for file, message in {"bad.toml": "'finetune'", "torn.pt": "damaged", "two.py": "no marked method"}.items():
        said = distrust("check", file)
        assert said.code == 2 and message in said.err


def test_many_files_are_checked_in_a_line_each_and_none_stops_the_others(distrust, stranger, tmp_path):
    home = tmp_path / "odd"
    home.mkdir()
    (home / "trial.toml").write_text(STUDY)
    (home / "torn.pt").write_bytes(stranger.attacked.read_bytes()[:-400])
    (home / "weights.txt").write_bytes(stranger.attacked.read_bytes())
    (home / "names.md").write_text("cat\n\ndog\n")
    words = ["check", *sorted(home.iterdir()), home / "gone.pt"]
    said = distrust(*words)
    assert said.code == 2 and said.out.count("\n") == 5
    lines = [line.removeprefix(f"{home}/") for line in said.out.splitlines()]
    assert lines[0].startswith("names.md: text of 3 lines") and "torn.pt: BadInput: damaged" in lines[1]
    assert lines[2].startswith("trial.toml: a study: 4 cells") and f"next: distrust run {home}/trial.toml" in lines[2]
    assert f"next: distrust measure --weights {home}/weights.txt --model NAME" in lines[3]
    assert lines[4] == f"gone.pt: NotFound: no file {home}/gone.pt."
    torch.save({"a": print}, home / "evil.pt")
    found = distrust(*words, home / "evil.pt", "--json")
    assert found.code == 1, "what is unsafe goes before what cannot be read"
    assert [one.get("error", one["is"]) for one in found.facts["files"]] == [
        "text", "BadInput", "study", "weights", "NotFound", "UnsafeFile"
    ]  # fmt: skip
    assert [one.get("safe") for one in found.facts["files"]] == [True, None, True, True, None, False]
    assert distrust("check", home / "weights.txt", home / "trial.toml").code == 0


def test_a_set_is_chosen_among_several_on_the_command_line(distrust, tmp_path):
    x, y = torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    torch.save({"data": [[x, y], [x / 2, y]]}, tmp_path / "res.pt")
    assert "2 synthetic sets (--experiment 0 to 1): each 6 images" in distrust("check", tmp_path / "res.pt").out
    said = distrust("scan", tmp_path / "res.pt", "--threshold", 9)
    assert said.code == 2 and "Choose one, and scan each: --experiment 0 to --experiment 1" in said.err
    probe = "patch_probe[network=convnet2-w4,networks=1,epochs=1,size=3,stride=4,images=4]"
    for which in (0, 1):
        asked = ["--detector", probe, "--threshold", 99, "--experiment", which]
        assert distrust("scan", tmp_path / "res.pt", *asked).code == 0
    assert distrust("scan", tmp_path / "res.pt", "--experiment", 2).code == 2
