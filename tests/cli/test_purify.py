"""Purifying a checkpoint, and distilling from it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from distrust import images, load, model, save
from distrust.auditing.artefact import write_artefact
from distrust.door import fitted, weights_in
from distrust.tensors import read_record

from .said import MEASURED


def test_purify_measures_before_and_after_and_writes_a_model_that_opens_by_itself(distrust, stranger):
    words = ["purify", "nad[epochs=1,teacher_epochs=1,lr=0.05]", "--weights", stranger.attacked, "--model", "wrn10-1"]
    words += ["--images", stranger.images, "--fraction", 0.05, "--out", "clean"]
    said = distrust(*words, "--trigger", "patch:white:3", "--target", 5, "--json")
    found = said.facts
    destroyed = {"acc-floor", "chance-level", "collapsed"} & {*found["after"]["flags"]}
    assert said.code == (3 if destroyed else 0) and set(found["before"]) >= MEASURED and set(found["after"]) >= MEASURED
    assert found["before"]["asr"] > 0.7 and found["clean"] == round(0.05 * 1347)
    assert "on 67 clean images" in said.err
    assert sorted(p.name for p in Path("clean").iterdir()) == ["README.md", "model.safetensors", "record.json"]
    record = json.loads(Path("clean/record.json").read_text())
    assert record["options"]["lr"] == 0.05 and record["after"] == found["after"] and record["taint"] == []
    again = distrust(
        "measure", "--weights", "clean/model.safetensors", "--images", stranger.images,
        "--trigger", "patch:white:3", "--target", 5, "--json",
    )  # fmt: skip
    assert again.facts["asr"] == found["after"]["asr"] and again.facts["acc"] == found["after"]["acc"]
    assert "wrn10-1" in distrust("check", "clean/model.safetensors").out


def test_purify_without_a_trigger_measures_accuracy_alone_and_can_be_quiet(distrust, stranger):
    words = ["purify", "finetune[epochs=1,lr=0.01]", "--weights", stranger.attacked, "--model", "wrn10-1"]
    words += ["--images", stranger.images, "--quiet"]
    said = distrust(*words, "--out", "a")
    assert said.code == (3 if "acc-floor" in said.out else 0) and said.err == ""
    assert "ASR" not in said.out.partition("a/model")[0]
    assert said.out.startswith("before: ACC") and "\nafter:  ACC" in said.out and "a/model.safetensors" in said.out
    distrust(*words, "--out", "b")
    distrust(*words, "--out", "c", "--seed", 1)
    one, same, other = (Path(f"{name}/model.safetensors").read_bytes() for name in "abc")
    assert one == same != other


def test_purify_cleans_an_encoder_with_a_folder_of_images_without_labels(distrust, stranger, tmp_path):
    train, _ = images("digits")
    save(model("convnet2-w4", train, head=False), tmp_path / "encoder.safetensors")
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for i, x in enumerate(train.x[:60].permute(0, 2, 3, 1).numpy()):
        Image.fromarray(x).save(folder / f"{i}.png")
    mimic = "mimic[epochs=1,batch_size=16,mine_epochs=1,flip=false]"
    words = ["purify", mimic, "--weights", tmp_path / "encoder.safetensors", "--fraction", 0.5]
    said = distrust(*words, "--images", folder, "--out", "cleaned", "--json")
    assert said.code == 0 and "before" not in said.facts, said.err
    spec = load("cleaned/model.safetensors").spec
    assert spec == {"name": "convnet2-w4", "head": False, "channels": 3, "size": 16}
    torch.save(model("wrn10-1", train, head=False).state_dict(), "strange.pt")
    words_of_one = ["--weights", "strange.pt", "--model", "wrn10-1", "--images", folder, "--size", 16, "--encoder"]
    said = distrust("purify", "clp", *words_of_one, "--out", "pruned")
    assert said.code == 0 and load("pruned/model.safetensors").spec["head"] is False, said.err
    said = distrust("purify", "nad", *words_of_one, "--out", "not")
    assert said.code == 2 and "nad cleans classifiers, not encoders. Leave --encoder, or take one of" in said.err
    labelled = distrust(*words, "--images", "digits", "--out", "measured", "--trigger", "patch:white:3", "--target", 5)
    assert labelled.code == 0 and "ASR" in labelled.out, "a linear head is measured where there are labels"
    wrong = distrust("purify", mimic, "--weights", stranger.attacked, "--images", stranger.images, "--out", "x")
    assert wrong.code == 2 and not Path("x").exists()
    words = ["measure", "--weights", tmp_path / "encoder.safetensors", "--images", "digits"]
    classifier = distrust(*words, "--trigger", "sig", "--target", 1)
    assert classifier.code == 2 and "is an encoder, which returns features" in classifier.err


def test_a_taken_out_is_refused_before_any_work(distrust, stranger):
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("mine")
    for words in (["purify", "nad"], ["distill", "--student", "wrn10-1"]):
        said = distrust(*words, "--images", "nowhere", "--weights", "nowhere.pt", "--out", "taken")
        assert said.code == 2 and "taken exists already and is not empty" in said.err
    assert [p.name for p in Path("taken").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "fraction, message", [(0.0001, "holds no image; ask for a larger share"), (0, "outside"), (1.5, "clean=1.5")]
)
def test_a_share_that_leaves_nothing_is_refused(distrust, stranger, fraction, message):
    said = distrust(
        "purify", "finetune", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images,
        "--fraction", fraction, "--out", "out",
    )  # fmt: skip
    assert said.code == 2 and message in said.err and not Path("out").exists()


def test_a_student_of_a_tainted_teacher_is_tainted_and_its_card_says_so(distrust, stranger, tmp_path):
    teacher = model("wrn10-1", classes=10, channels=1, size=8)
    fitted(teacher, weights_in(stranger.attacked), stranger.attacked)
    weights = write_artefact(tmp_path / "teacher", teacher, ("badnets",), {})
    assert weights.name == "model.tainted-badnets.safetensors"
    words = ["--weights", weights, "--images", stranger.images, "--epochs", 2, "--out", "student", "--no-flip"]
    words += ["--trigger", "patch:white:3", "--target", 5]
    said = distrust(
        "distill", "--student", "wrn10-1", "--distiller", "kd[temperature=2]", "--batch-size", 32, *words, "--json"
    )
    found = said.facts
    assert found["weights"] == "student/model.tainted-badnets.safetensors"
    assert found["teacher_measured"]["asr"] > 0.7 and set(found["student_measured"]) >= MEASURED
    poor = {"chance-level", "collapsed"} & {*found["student_measured"]["flags"]}
    assert said.code == (3 if poor else int(found["student_measured"]["titg"] >= 0.10))
    assert read_record(found["weights"])["taint"] == ["badnets"]
    assert "**Tainted.** An attack is among this model's ancestors (badnets)" in Path("student/README.md").read_text()
    said = distrust("check", found["weights"])
    assert said.code == 0 and "TAINTED by badnets" in said.out
    purified = distrust("purify", "none", *words[:4], "--weights", found["weights"], "--out", "purified")
    assert (
        purified.code == (3 if "chance-level" in poor else 0)
        and "purified/model.tainted-badnets.safetensors" in purified.out
    )


def test_distill_tells_of_teacher_and_student(distrust, stranger):
    said = distrust(
        "distill", "--student", "wrn10-1", "--distiller", "at", "--weights", stranger.control, "--model", "wrn10-1",
        "--images", stranger.images, "--epochs", 1, "--out", "student", "--quiet",
    )  # fmt: skip
    assert said.code == (3 if "chance-level" in said.out else 0) and said.err == ""
    assert said.out.startswith("teacher: ACC") and "\nstudent: ACC" in said.out
    assert "Origin unknown" in Path("student/README.md").read_text()


def test_a_place_that_cannot_be_written_is_refused_before_any_work(distrust, stranger):
    Path("file").write_text("mine")
    words = ["--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images, "--out", "file/out"]
    for command in (["purify", "nad"], ["distill", "--student", "wrn10-1"], ["scan", stranger.attacked]):
        said = distrust(*command, *(words if command[0] != "scan" else words[2:]))
        assert said.code == 2 and said.err.startswith("StoreError: file/out cannot be written"), said.err
    nothing = distrust(
        "purify", "nad", "--model", f"{stranger.code}:factory", *words[4:-1], "out", "--keys", "original"
    )
    assert nothing.code == 4 and "goes with --weights" in nothing.err
    taken = distrust("purify", "nad", *words[:-1], "out", "--trigger", "patch:white:30", "--target", 5)
    assert taken.code == 2 and "does not fit" in taken.err and "clean images" not in taken.err, "before the defence ran"


def test_purify_chooses_the_rate_and_keeps_the_original_names(distrust, stranger):
    original = weights_in(stranger.attacked)[0].named
    words = ["purify", "finetune[epochs=1,flip=false,crop=0,cutout=0]", "--weights", stranger.attacked]
    words += ["--model", "wrn10-1", "--images", stranger.images, "--keys", "original", "--out", "clean", "--json"]
    said = distrust(*words)
    found = said.facts
    assert (
        found["clean"] == 1078 and found["validation"]["n"] == 269 and found["chosen"]["lr"] in (0.1, 0.03, 0.01, 0.003)
    )
    assert "on 1078 clean images of images, 269 more for validation" in said.err
    assert said.code == (0 if "acc-floor" not in found["after"]["flags"] else 3)
    assert load_file("clean/model.safetensors").keys() == original.keys()
    again = distrust(
        "measure", "--weights", found["weights"], "--images", stranger.images, "--trigger", "sig", "--target", 1
    )
    assert again.out.startswith(f"ACC {100 * found['after']['acc']:.1f}")
