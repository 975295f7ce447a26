"""Asking a detector about a set or a model."""

import re
import shlex
from pathlib import Path

import torch
from PIL import Image

from distrust import fit, images, model, rng, save, save_set
from distrust.data import PLAIN
from distrust.methods import condensers


def test_scan_asks_a_detector_about_a_set_and_judges_by_threshold_or_null(distrust, tmp_path):
    made = condensers.random(images("digits")[0], images_per_class=2, rng=rng(0))
    save_set(made, tmp_path / "set.safetensors")
    torch.save({"data": [[3 * made.x - 1, made.y]]}, tmp_path / "res.pt")
    probe = "patch_probe[network=convnet2-w4,networks=1,epochs=2,size=3,stride=6,images=8{}]".format
    words = ["scan", tmp_path / "set.safetensors", "--detector"]
    said = distrust(*words, probe(""))
    assert said.code == 3 and "Nothing to compare it with: type --threshold" in said.out
    found = distrust(*words, probe(""), "--threshold", -9, "--json")
    assert found.code == 1 and found.facts["finding"] and len(found.facts["scores"]) == 10
    assert distrust(*words, probe(""), "--threshold", 9).code == 0
    with_null = distrust(*words, probe(",permutations=3"), "--json")
    assert with_null.code == int(with_null.facts["p"] == 0)
    strange = distrust("scan", tmp_path / "res.pt", "--detector", probe(""))
    assert strange.code == 2 and "Type --units normalised, --statistics NAME" in strange.err
    opened = distrust("scan", tmp_path / "res.pt", "--detector", probe(""), "--units", "pixels", "--threshold", 9)
    assert opened.code == 0 and "Its pixels leave 0..1." in opened.out
    wrong = distrust(*words, "neural_cleanse")
    assert wrong.code == 2 and "neural_cleanse shows clean images to the classifier. Type --images" in wrong.err


def test_scan_asks_a_detector_about_a_model_on_clean_images(distrust, tmp_path):
    train, _ = images("digits")
    save(model("convnet2-w4", train, head=False), tmp_path / "encoder.safetensors")
    options = {"epochs": 4, "batch_size": 32, "augment": PLAIN}
    save(fit(model("convnet2-w4", train), train, **options), tmp_path / "classifier.safetensors")
    on_digits = ["--images", "digits", "--detector"]
    encoder, classifier = (["scan", tmp_path / f"{kind}.safetensors", *on_digits] for kind in ("encoder", "classifier"))
    said = distrust(*encoder, "decree[steps=2]")
    assert said.code == 3 and "decree: score" in said.out and "classes" not in said.out
    assert distrust(*encoder, "decree[steps=2]", "--threshold", -1).code == 1
    found = distrust(*classifier, "neural_cleanse[steps=60]", "--threshold", 1e9, "--json")
    assert found.code == 0 and len(found.facts["scores"]) == 10 and not found.facts["finding"]
    for words, answer in (
        ([*encoder, "patch_probe"], "Leave --images"),
        ([*classifier, "decree"], "is a classifier of 10 classes"),
        (["scan", tmp_path / "encoder.safetensors", "--model", "wrn16-1"], "decree shows clean images to the encoder"),
        (["scan", tmp_path / "none.safetensors", "--images", "digits"], "no weights file"),
    ):
        wrong = distrust(*words)
        assert wrong.code == 2 and answer in wrong.err


def test_what_a_search_found_is_kept_and_measured(distrust, stranger):
    words = ["--model", "wrn10-1", "--key", "state_dict", "--images", stranger.images]
    search = ["--detector", "neural_cleanse[steps=100,batch_size=16]", "--threshold", -9]
    said = distrust("scan", stranger.attacked, *words, *search, "--out", "found")
    assert said.code == 1 and said.out.startswith("ACC ") and "most suspicious class " in said.out
    assert sorted(p.name for p in Path("found").iterdir()) == ["found.json", "found.png", "found.safetensors"]
    with Image.open("found/found.png") as picture:
        assert picture.height >= 96 and picture.width > 8 * picture.height
    typed = said.out.partition("Measure it: distrust ")[2].splitlines()[0]
    assert shlex.split(typed)[:3] == ["measure", "--weights", str(stranger.attacked)]
    found = distrust(*shlex.split(typed), "--json")
    assert found.code == 1 and found.facts["asr"] > 0.8
    assert f"most suspicious class {found.facts['target']}\n" in said.out
    taken = distrust("scan", "nowhere.pt", *words, "--out", "found")
    assert taken.code == 2 and "found exists already" in taken.err
    none = distrust("scan", stranger.attacked, *words, "--detector", "decree", "--out", "other")
    assert none.code == 2 and "Leave --out, or ask neural_cleanse" in none.err and not Path("other").exists()


def test_a_search_that_was_too_short_judges_nothing_and_keeps_nothing(distrust, stranger):
    words = ["--model", "wrn10-1", "--images", stranger.images, "--detector", "neural_cleanse[steps=2]"]
    said = distrust("scan", stranger.attacked, *words, "--threshold", -9, "--out", "found")
    assert said.code == 3 and "no patch worked for" in said.out and "ask for more steps" in said.out
    assert "nothing is kept in found" in said.out and not Path("found").exists()


def test_scan_says_what_was_forgotten(distrust, stranger, tmp_path):
    train, _ = images("digits")
    save(model("convnet2-w4", train), tmp_path / "ours.safetensors")
    random = distrust("scan", tmp_path / "ours.safetensors", "--images", "digits", "--threshold", 2)
    assert random.code == 3 and "is at chance level on digits: ACC" in random.err
    for words, answer in (
        (
            [stranger.attacked],
            "holds weights, no synthetic set.* --images cifar10, or a folder; and name the model: --model",
        ),
        ([tmp_path / "ours.safetensors"], r"holds weights, no synthetic set.* --images cifar10, or a folder\.$"),
        ([stranger.attacked, "--images", stranger.images], "does not say which model it is. Type --model"),
        ([stranger.attacked, "--model", "wrn10-1"], "shows clean images to the classifier. Type --images"),
    ):
        wrong = distrust("scan", *words)
        assert wrong.code == 2 and re.search(answer, wrong.err.strip()), wrong.err
    made = condensers.random(train, images_per_class=1, rng=rng(0))
    save_set(made, tmp_path / "set.safetensors")
    wrong = distrust("scan", tmp_path / "set.safetensors", "--images", "digits", "--model", "wrn10-1")
    assert wrong.code == 2 and "is a synthetic set, which is scanned alone. Leave --images" in wrong.err
