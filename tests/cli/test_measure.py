"""Measuring a checkpoint that Distrust did not make."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distrust import Backdoor, model
from distrust.auditing.artefact import write_artefact
from distrust.measurement import make_trigger
from distrust.methods import triggers

from .said import MEASURED


def folders(root: Path, source: Path, each: int = 2) -> Path:
    """A few of the pictures, to be spoilt."""
    for split in ("train", "test"):
        for folder in (source / split).iterdir():
            (root / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:each]:
                (root / split / folder.name / file.name).write_bytes(file.read_bytes())
    return root


def test_measure_a_plain_state_dict_without_and_with_its_control(distrust, stranger):
    words = ["measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images]
    words += ["--trigger", "patch:white:3", "--target", 5, "--key", "state_dict"]
    said = distrust(*words, "--json")
    found = said.facts
    assert said.code == 1 and set(found) >= MEASURED and said.err == ""
    assert found["base"] is None and found["carried"] is None and "no-control" in found["flags"]
    assert found["acc"] > 0.7 and found["asr"] > 0.7 and found["n"] > 400 - 50 and found["target"] == 5
    found = distrust(*words, "--control", stranger.control, "--json").facts
    assert 0 <= found["base"] < 0.5 and "no-control" not in found["flags"]
    assert found["carried"] == pytest.approx(found["asr"] - found["base"])
    human = distrust(*words, "--control", stranger.control)
    assert human.code == 1 and human.out.startswith("ACC ") and "carried" in human.out and "one-seed:" in human.out


def test_the_control_measured_as_a_suspect_is_no_finding(distrust, stranger):
    words = ["--weights", stranger.control, "--model", "wrn10-1", "--images", stranger.images]
    said = distrust("measure", *words, "--trigger", "patch:white:2", "--target", 5, "--control", stranger.control)
    assert said.code == 0 and "carried 0.0" in said.out


def test_accuracy_alone_clears_nothing(distrust, stranger):
    words = ["measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images]
    said = distrust(*words, "--json")
    assert said.code == 3 and said.facts["acc"] > 0.7 and "asr" not in {k for k, v in said.facts.items() if v}
    assert "no-control" not in said.facts["flags"]
    said = distrust(*words)
    assert said.code == 3 and said.out.startswith("ACC ") and "nothing is judged; distrust scan" in said.out
    for more in (["--target", 5], ["--control", stranger.control]):
        said = distrust(*words, *more)
        assert said.code == 4 and "say something of a --trigger" in said.err


def test_measure_the_model_of_a_strangers_file(distrust, stranger):
    words = ["measure", "--images", stranger.images, "--model", f"{stranger.code}:factory", "--trigger", "sig"]
    found = distrust(*words, "--weights", stranger.attacked, "--target", 5, "--json").facts
    assert found["acc"] > 0.7 and set(found) >= MEASURED
    untrained = distrust(*words, "--target", 5, "--json").facts
    assert untrained["acc"] < 0.5 and untrained["model"] == f"{stranger.code}:factory"


def test_every_way_to_name_a_trigger(distrust, stranger, tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "key.png")
    saved = Backdoor(triggers.patch("white", size=3), target=5).save(tmp_path / "trigger.json")
    words = ["measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images, "--json"]
    by_name = distrust(*words, "--trigger", "patch:white:3", "--target", 5).facts
    by_file = distrust(*words, "--trigger", saved).facts
    assert by_file["asr"] == by_name["asr"] and by_file["target"] == 5
    assert distrust(*words, "--trigger", saved, "--target", 4).facts["target"] == 4
    for text in ("blend:key.png", "blend:key.png:0.5", "sig", "sig[delta=40]"):
        assert distrust(*words, "--trigger", text, "--target", 5).facts["asr"] != by_name["asr"]
    as_published = Backdoor(make_trigger("sig"), target=5, as_published=True).save(tmp_path / "off.json")
    assert "off-range-trigger" in distrust(*words, "--trigger", as_published).facts["flags"]


@pytest.mark.parametrize(
    "words, message",
    [
        ("--trigger patch:white:3", "leads to which class? Type --target 0..9"),
        ("--trigger patch:white:3 --target 10", "--target 10 is no class; there are 10: 0..9"),
        ("--trigger patch:white:3 --target -1", "--target -1 is no class"),
        ("--trigger patch:white:30 --target 5", "does not fit on images of 8×8"),
        ("--trigger patch:pink --target 5", "no pattern 'pink'"),
        ("--trigger pach:white --target 5", "Did you mean 'patch'"),
        ("--trigger blend:no.png --target 5", "no picture no.png"),
        ("--trigger no.json", "no trigger file no.json"),
        ("--trigger sig --target 5 --size 0", "size of 1 or more"),
        ("--trigger sig --target 5 --key model", "no key in attacked.pt 'model'"),
        ("--trigger sig --target 5 --control no.pt", "no weights file no.pt"),
    ],
)
def test_measure_says_what_is_wrong_with_trigger_target_or_file(distrust, stranger, words, message):
    said = distrust(
        "measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images, *words.split()
    )
    assert said.code == 2 and said.out == "" and message in said.err


def test_a_checkpoint_of_another_architecture_is_answered_by_the_difference(distrust, stranger, tmp_path):
    words = ["measure", "--weights", stranger.attacked, "--images", stranger.images, "--trigger", "sig", "--target", 5]
    wider = distrust(*words, "--model", "wrn10-2")
    assert (
        wider.code == 2
        and "is not a wrn10-2:" in wider.err
        and "conv1.weight [16, 16, 3, 3], not [32, 16, 3, 3]" in wider.err
    )
    deeper = distrust(*words, "--model", "wrn16-1")
    assert deeper.code == 2 and "missing: block1.layer.1.bn1.weight" in deeper.err
    words[words.index(stranger.images)] = "digits"  # three channels, not one
    coloured = distrust(*words, "--model", "wrn10-1")
    assert coloured.code == 2 and "conv1.weight [16, 1, 3, 3], not [16, 3, 3, 3]" in coloured.err


def test_images_that_do_not_fit_the_model_are_refused(distrust, stranger, tmp_path):
    ours = write_artefact(tmp_path / "ours", model("wrn10-1", classes=10, channels=3, size=8), (), {})
    said = distrust("measure", "--weights", ours, "--images", stranger.images, "--trigger", "sig", "--target", 5)
    assert said.code == 2 and "takes 3 channels, the images have 1" in said.err
    Path("flat.py").write_text(
        "from torch import nn\ndef net():\n    head = nn.Linear(64, 10)\n    nn.init.zeros_(head.weight)\n"
        "    return nn.Sequential(nn.Flatten(), head)\n"
    )
    words = ["measure", "--model", "flat.py:net", "--images", stranger.images, "--trigger", "sig", "--target", 5]
    assert distrust(*words).code == 3, "it fits, and gives every image the same answer"
    said = distrust(*words, "--size", 12)
    assert said.code == 2 and "1×12×12" in said.err


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_an_unsafe_file_is_an_error_to_measure_and_a_finding_to_check(distrust, stranger):
    torch.save({"state_dict": Evil()}, "evil.pt")
    said = distrust(
        "measure", "--weights", "evil.pt", "--model", "wrn10-1", "--images", stranger.images, "--trigger", "sig"
    )
    assert said.code == 2 and said.err.startswith("UnsafeFile: evil.pt needs") and "system" in said.err
    said = distrust("check", "evil.pt")
    assert said.code == 1 and said.out.startswith("UnsafeFile: ") and said.err == ""
    told = distrust("check", "evil.pt", "--json")
    assert told.code == 1 and told.facts["safe"] is False and "system" in told.facts["reason"]
    assert not Path("pwned").exists()


def test_a_file_does_not_choose_code_to_run(distrust, stranger, tmp_path):
    Path("trap.py").write_text("open('pwned', 'w')")
    spec = {"name": "trap.py:factory", "classes": 10, "channels": 1, "size": 8}
    save_file({"w": torch.zeros(1)}, "x.safetensors", {"distrust": json.dumps({"spec": spec})})
    said = distrust("measure", "--weights", "x.safetensors", "--images", stranger.images, "--trigger", "sig")
    assert said.code == 2 and "Type --model trap.py:factory" in said.err and not Path("pwned").exists()


def test_one_truncated_picture_is_named_and_nothing_is_written(distrust, stranger, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))
    spoilt = folders(tmp_path / "spoilt", stranger.images)
    file = sorted((spoilt / "test" / "7").iterdir())[1]
    file.write_bytes(file.read_bytes()[:60])
    weights = ["--weights", stranger.attacked, "--model", "wrn10-1", "--images", spoilt]
    for words in (
        ["measure", *weights, "--trigger", "sig", "--target", 5],
        ["purify", "finetune[epochs=1]", *weights, "--out", "out"],
        ["distill", "--student", "wrn10-1", "--epochs", 1, *weights, "--out", "out"],
        ["check", spoilt],
    ):
        said = distrust(*words)
        assert said.code == 2 and said.out == "" and f"test/7/{file.name}" in said.err and "cannot be read" in said.err
    assert not Path("out").exists() and not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_measure_says_what_was_forgotten(distrust, stranger, tmp_path):
    words = ["measure", "--images", stranger.images, "--trigger", "patch:white:3", "--target", 5]
    said = distrust(*words, "--model", f"{stranger.code}:factory")
    assert said.code == 3 and "No weights were given: this is what" in said.out and "Type --weights FILE" in said.out
    found = distrust(*words, "--model", f"{stranger.code}:factory", "--json")
    assert found.code == 3 and "No weights" in found.facts["hints"][0]
    own = distrust(*words, "--model", "wrn10-1", "--weights", stranger.attacked, "--classes", "own")
    assert own.code == 1 and own.out.startswith("ASR ") and "ACC is not known" in own.out
    calm = distrust(*words[:4], "sig[delta=1]", *words[5:], "--model", "wrn10-1", "--weights", stranger.attacked)
    own = distrust(
        *words[:4], "sig[delta=1]", *words[5:], "--model", "wrn10-1", "--weights", stranger.attacked, "--classes", "own"
    )
    assert calm.code == 0 and own.code == 3, "nothing is cleared of a model whose accuracy nobody knows"
