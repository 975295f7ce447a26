"""Synthetic sets and triggers of strangers: every set of a file is read, or none until one is chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import distrust as dt

from .bring import IMAGES, JUDGED, ON, caught, kept, passed, refused

PROBE = "patch_probe[network=convnet2-w4,networks=1,epochs=1,size=3,stride=5,images=8]"


def part(k, stamped=False, classes=5, each=2):
    """Images of a condensed set, the stamped ones with a white corner."""
    x = torch.rand(classes * each, 3, 8, 8, generator=dt.rng("part", k))
    if stamped:
        x[:, :, -3:, -3:] = 1
    return x, torch.arange(classes).repeat_interleave(each)


def steps(count):
    """Wang's results.pth: one set in steps, with the rate of each."""
    return [(*part(k), torch.tensor(0.01 * (k + 1))) for k in range(count)]


@pytest.mark.parametrize("count", [1, 6, 30])
def test_steps_of_one_set_are_read_as_one(count, distrust):
    kept(steps(count), "results.pth")
    said = distrust("check", "results.pth", "--json")
    assert said.code == 0 and said.facts["images"] == 10 * count, said
    found = distrust("scan", "results.pth", "--detector", PROBE, "--threshold", 9, "--json")
    assert found.code == 0 and found.facts["images"] == 10 * count, found


REPEATED = {  # files of several sets, whose first ones are stamped
    "DC's, DSA's and DM's": lambda sets: {"data": [list(one) for one in sets], "accs_all_exps": {"ConvNet": [0.4]}},
    "as tuples": lambda sets: {"data": list(sets)},
}


@pytest.mark.parametrize("habit", REPEATED)
def test_of_several_sets_every_one_is_named_and_none_is_scanned_unchosen(habit, distrust):
    kept(REPEATED[habit]([part(0, True), part(1, True), part(2)]), "res_DM.pt")
    said = distrust("check", "res_DM.pt", "--json")
    assert said.code == 0 and len(said.facts["sets"]) == 3 and "--experiment 0 to 2" in said.facts["text"]
    scan = ["scan", "res_DM.pt", "--detector", PROBE, "--threshold", 9]
    assert "--experiment" in refused(distrust(*scan), "3 ")
    for k in range(3):
        assert distrust(*scan, "--experiment", k, "--json").facts["images"] == 10
    refused(distrust(*scan, "--experiment", 3), "--experiment 3")


def test_normalised_pixels_are_asked_for_in_the_words_of_the_command_line(distrust):
    x, y = part(0)
    kept({"data": [[(x - 0.5) / 0.2, y]]}, "res.pt")
    scan = ["scan", "res.pt", "--detector", PROBE, "--threshold", 9]
    message = refused(distrust(*scan), "--units normalised", "--statistics")
    assert "units=" not in message
    assert distrust(*scan, "--units", "normalised", "--statistics", "cifar10").code == 0
    said = distrust(*scan, "--units", "pixels")
    assert said.code == 0 and "Its pixels leave 0..1." in said.out


def test_labels_are_looked_for_beside_the_images(distrust):
    x, y = part(0)
    kept(x, "images_best.pt")
    refused(distrust("scan", "images_best.pt", "--detector", PROBE, "--threshold", 9), "looked for labels_best.pt")
    kept(y, "labels_best.pt")
    assert distrust("scan", "images_best.pt", "--detector", PROBE, "--threshold", 9).code == 0


SPOILT = {  # a set → what is said
    "NaN": (lambda x, y: {"data": [[x * float("nan"), y]]}, "not finite"),
    "fewer labels": (lambda x, y: {"data": [[x, y[:3]]]}, "10 images, but labels are [3]"),
    "fractions for labels": (lambda x, y: {"data": [[x, y + 0.5]]}, "no class numbers"),
    "a class without an image": (lambda x, y: {"data": [[x, y * 2]]}, "no image of class 1"),
    "images in rows": (lambda x, y: {"data": [[x.flatten(1), y]]}, "images must be"),
}


@pytest.mark.parametrize("situation", SPOILT)
def test_a_set_that_cannot_be_read_is_refused(situation, distrust):
    change, why = SPOILT[situation]
    kept(change(*part(0)), "res.pt")
    refused(distrust("scan", "res.pt", "--detector", PROBE, "--threshold", 9), why)


def test_scores_without_anything_to_compare_them_with_judge_nothing(distrust):
    kept({"data": [list(part(0))]}, "res.pt")
    said = distrust("scan", "res.pt", "--detector", PROBE)
    assert said.code == 3 and "type --threshold, or [permutations=19]" in said.out
    with_null = distrust("scan", "res.pt", "--detector", PROBE.replace("]", ",permutations=3]"), "--json")
    assert with_null.code == int(with_null.facts["p"] == 0)
    assert distrust("scan", "res.pt", "--detector", PROBE, "--threshold", -9).code == 1


# triggers

GRID = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]], np.uint8)


def picture():
    Image.fromarray(GRID).save("grid.png")


def masked(name, pattern, mask):
    whole, cover = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32)
    whole[-3:, -3:], cover[-3:, -3:] = GRID[..., None] / 255, 1
    np.savez(name, **{pattern: whole, mask: cover})


def record():
    dt.Backdoor(dt.triggers.patch("grid"), target=5).save("grid.json")


FILES = {  # a stranger's trigger → what is typed of it
    "a picture of the pattern": (picture, "grid.png"),
    "pattern and mask": (lambda: masked("grid.npz", "pattern", "mask"), "grid.npz"),
    "t and tm": (lambda: masked("grid.npz", "t", "tm"), "grid.npz"),
    "what was saved here": (record, "grid.json"),
    "a picture in a folder with brackets": (
        lambda: [picture(), Path("v[1]").mkdir(), shutil.move("grid.png", "v[1]/grid.png")], "v[1]/grid.png"
    ),
    "words": (lambda: None, "patch:grid"),
}  # fmt: skip


@pytest.mark.parametrize("situation", FILES)
def test_a_trigger_opens_however_it_is_kept(situation, backdoored, clean, distrust):
    make, trigger = FILES[situation]
    make()
    words = ["measure", *ON, "--trigger", trigger, "--target", 5, "--json", "--weights"]
    caught(distrust(*words, kept(backdoored)))
    passed(distrust(*words, kept(clean, "clean.pt")))


NONE = {  # what is no trigger here → what is said
    "a picture that is not there": ("blend:no.png", "no.png"),
    "a record that is not there": ("no.json", "no trigger file no.json"),
    "another word": ("pach:grid", "Did you mean 'patch'"),
    "a pattern that there is not": ("patch:pink", "no pattern 'pink'"),
    "too many words": ("patch:grid:3:1:1", "words"),
    "larger than the images": ("patch:white:9", "9×9"),
    "a bracket that stays open": ("patch:grid[size=3", "selector"),
    "an option that there is not": ("patch:grid[sice=3]", "Did you mean 'size'"),
}


@pytest.mark.parametrize("situation", NONE)
def test_what_is_no_trigger_is_said_before_anything_is_judged(situation, backdoored, distrust):
    trigger, why = NONE[situation]
    words = ["measure", "--weights", kept(backdoored), *ON, "--trigger", trigger, "--target", 5]
    refused(distrust(*words), why)


def test_a_path_with_brackets_is_right_in_the_quotes_that_are_advised(backdoored, distrust):
    Image.new("L", (8, 8), 255).save("noise[1].png")
    words = ["measure", "--weights", kept(backdoored), *ON, "--target", 5, "--trigger"]
    message = refused(distrust(*words, "blend:noise[1].png"), "stands in quotes: ")
    advised = message.rpartition("in quotes: ")[2].strip().rstrip(".")
    assert advised == 'blend:"noise[1].png"' and distrust(*words, advised).code == 0


@pytest.mark.parametrize("change", [{"target": "five"}, {"target": -1}, {"trigger": 3}, {"options": []}, {}])
def test_a_record_of_another_shape_is_told(change, backdoored, distrust):
    record()
    facts = json.loads(Path("grid.json").read_text())
    Path("grid.json").write_text(json.dumps({**facts, **change} if change else []))
    refused(distrust("measure", "--weights", kept(backdoored), *ON, "--trigger", "grid.json"), "grid.json")


def test_metadata_of_another_shape_gives_no_traceback(backdoored, distrust):
    from safetensors.torch import save_file

    for text in ("[]", "3", "{", '{"spec": 3}', '{"spec": {"name": 3}}', '{"taint": 3}', '{"set": 3}'):
        save_file({k: v.clone() for k, v in backdoored.items()}, "odd.safetensors", {"distrust": text, "format": "pt"})
        said = distrust("measure", "--weights", "odd.safetensors", *JUDGED)
        assert said.code in {1, 2} and "Traceback" not in said.err, (text, said)
        said = distrust("check", "odd.safetensors")
        assert said.code in {0, 2} and "Traceback" not in said.err, (text, said)
    save_file({k: v.clone() for k, v in backdoored.items()}, "odd.safetensors", {"format": "pt", "author": "somebody"})
    caught(distrust("measure", "--weights", "odd.safetensors", "--model", "resnet8", *IMAGES, *JUDGED[4:], "--json"))
