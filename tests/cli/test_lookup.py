"""list, show, layers and check."""

from pathlib import Path

from distrust import Backdoor
from distrust.methods import triggers

from .said import PLUGIN, STUDY


def test_list_and_show_know_every_method(distrust):
    found = distrust("list", "--json").facts
    assert {"triggers", "attacks", "distillers", "defenses", "models"} <= set(found)
    for kind in set(found) - {"models"}:
        assert set(distrust("list", kind, "--json").facts[kind]) == set(found[kind])
        for name, summary in found[kind].items():
            card = distrust("show", f"{kind}/{name}", "--json").facts
            assert (card["name"], card["kind"], card["summary"]) == (name, kind, summary) and card["differs"]
            assert all(option["about"] and option["bounds"] for option in card["options"])
            shown = distrust("show", f"{kind}/{name}")
            assert shown.code == 0 and card["paper"] in shown.out
    said = distrust("list")
    assert said.code == 0 and "attacks:\n  adba " in said.out and "  wrn{depth}-{width}" in said.out
    assert "place: 1 (training data)" in distrust("show", "badnets").out
    assert distrust("show", "blend", "--json").facts["kind"] == "triggers"


def test_a_kind_is_listed_with_its_papers(distrust):
    said = distrust("list", "distillers").out
    assert said.count("\n") >= 23 and "arXiv 1503.02531" in said and "arXiv 1904.01866" in said
    assert len(distrust("list", "distillers", "--json").facts["distillers"]) == 11


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
    for file, message in {"bad.toml": "'finetune'", "torn.pt": "damaged", "two.py": "0 marked methods"}.items():
        said = distrust("check", file)
        assert said.code == 2 and message in said.err
