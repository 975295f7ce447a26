"""Folders of pictures as people keep them: splits, classes, their order, and what is neither."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .bring import refused

SHADES = 10  # of grey between one class and the next
NET = f"""
import torch
from torch import nn


class Shade(nn.Module):
    \"\"\"Knows that a picture of class k has the shade {SHADES} · k.\"\"\"

    def __init__(self, classes):
        super().__init__()
        self.register_buffer("shades", {SHADES} / 255 * torch.arange(classes))

    def forward(self, x):
        return -100 * (x.mean((1, 2, 3))[:, None] - self.shades).abs()
"""


def pictures(folder, names, count=5, end=".png"):
    """So many of each class, each of its own shade."""
    for k, name in enumerate(names):
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("L", (8, 8), SHADES * k).save(Path(folder) / name / f"{i}{end}")


def split(root, names, train="train", test="test"):
    pictures(f"{root}/{train}", names)
    pictures(f"{root}/{test}", names, 3)


def loose(folder, count=4, end=".png", names="{}"):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", (8, 8), SHADES * (i % 2)).save(Path(folder) / f"{names.format(i)}{end}")


def found(distrust, root="pets", *classes):
    """What `check` says of it, whose classes are these."""
    said = distrust("check", root, "--json")
    assert said.code == 0, said
    assert said.facts["classes"] == list(classes)
    return said


def right(distrust, root, *more):
    """The accuracy of a network that knows every shade."""
    Path("net.py").write_text(NET)
    words = ["--model", "net.py:Shade", "--images", root, "--trigger", "patch:white:1", "--target", 0, *more]
    return distrust("measure", *words, "--json").facts["acc"]


CASED = [("Train", "Test"), ("training", "testing"), ("TRAIN", "VAL"), ("train", "valid"), ("Training", "Validation")]
WORDED = [("train", "dev"), ("train", "eval"), ("seg_train", "seg_test"), ("train_images", "test_images")]
WORDED += [("train1", "test1"), ("TrainSet", "TestSet"), ("imgs-train", "imgs-val"), ("my training", "my validation")]


@pytest.mark.parametrize("train, test", CASED + WORDED)
def test_splits_are_known_by_what_people_call_them(train, test, distrust):
    split("kaggle", ["cat", "dog"], train, test)
    facts = found(distrust, "kaggle", "cat", "dog").facts
    assert (facts["train"], facts["test"]) == (10, 6)
    assert right(distrust, "kaggle") == 1.0


def test_a_class_may_be_called_after_a_train(distrust):
    pictures("toys", ["bullet_train", "test_tube"])
    found(distrust, "toys", "bullet_train", "test_tube")


WRAPPED = {"a folder too high": "pets/data", "two too high": "pets/archive/data"}


@pytest.mark.parametrize("situation", WRAPPED)
def test_what_lies_a_folder_too_high_is_told_where_it_is(situation, distrust):
    inside = WRAPPED[situation]
    split(inside, ["cat", "dog"], "Train", "Test")
    where = "pets"
    for _ in Path(inside).relative_to("pets").parts:
        where = refused(distrust("check", where), "of its own. Give ").rpartition("Give ")[2].strip().rstrip(".")
    assert Path(where) == Path(inside).resolve()
    assert right(distrust, where) == 1.0


def test_class_folders_each_with_a_split_of_its_own_are_refused(distrust):
    for name in ("bottle", "cable"):
        split(f"parts/{name}", ["good", "broken"])
    refused(distrust("check", "parts"), "bottle holds folders, test, train, of its own")


def test_classes_of_several_folders_are_told(distrust):
    for name in ("animals", "tools"):
        pictures(f"things/{name}", ["one", "two"])
    said = found(distrust, "things", "animals", "tools")
    assert "animals/one and animals/two are one class" in said.err


CLUTTER = {  # what lies beside the pictures → the folders that are told to be left out
    "an archive's leftovers": (["train/__MACOSX/cat/._0.png", "train/labels/a.txt"], "__MACOSX, labels"),
    "thumbnails of a server": (["train/@eaDir/0.png"], "@eaDir"),
    "labels in a folder": (["train/labels/0.txt", "test/labels/0.txt"], "labels"),
    "an empty class": (["train/bird/"], "bird"),
    "files of the system": (["train/.DS_Store", "train/cat/Thumbs.db", "train/cat/desktop.ini", "README.txt"], ""),
    "hidden folders": (["train/.ipynb_checkpoints/0.png", "train/.git/HEAD"], ""),
    "a table of labels": (["labels.csv", "train/labels.csv"], ""),
}


@pytest.mark.parametrize("situation", CLUTTER)
def test_what_holds_no_picture_is_no_class_and_is_told(situation, distrust):
    split("pets", ["cat", "dog"])
    files, told = CLUTTER[situation]
    for name in files:
        file = Path("pets") / name
        (file if name.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if file.suffix == ".png":
            Image.new("L", (8, 8)).save(file) if not file.name.startswith("._") else file.write_bytes(b"\0\5")
        elif not name.endswith("/"):
            file.write_text("0.png,cat\n")
    said = found(distrust, "pets", "cat", "dog")
    assert (f"left out: {told}." in said.err) if told else said.err == ""
    assert right(distrust, "pets") == 1.0


def test_a_link_that_leads_nowhere_is_no_picture(distrust):
    split("pets", ["cat", "dog"])
    os.symlink("nowhere.png", "pets/train/cat/9.png")
    assert found(distrust, "pets", "cat", "dog").facts["train"] == 10


SYNSETS = ["n01440764", "n01443537"]


def test_a_flat_val_is_told_and_right_once_it_is_sorted(distrust):
    pictures("imagenet/train", SYNSETS)
    loose("imagenet/val", 10, ".JPEG", "ILSVRC2012_val_{:08}")
    refused(distrust("check", "imagenet"), "val holds 10 pictures, but no class folders", "Sort them")
    for i, file in enumerate(sorted(Path("imagenet/val").iterdir())):
        (Path("imagenet/val") / SYNSETS[i % 2]).mkdir(exist_ok=True)
        shutil.move(file, Path("imagenet/val") / SYNSETS[i % 2] / file.name)
    assert found(distrust, "imagenet", *SYNSETS).facts["test"] == 10
    assert right(distrust, "imagenet") == 1.0


def lines(row):
    return "".join(f"{row(i, SYNSETS[i % 2])}\n" for i in range(4))


LISTED = {  # where it is written which class a picture of a flat split has
    "Tiny-ImageNet's annotations": (
        "val/images",
        "val/val_annotations.txt",
        lambda i, c: f"{i}.JPEG\t{c}\t0\t0\t62\t62",
    ),
    "a table beside": ("val", "val.csv", lambda i, c: f"{i}.JPEG,{c}"),
    "a table without endings": ("val", "solution.csv", lambda i, c: f"{i},{c} 85 1 499 272"),
    "a table with paths": ("test", "test/labels.txt", lambda i, c: f"test/{i}.JPEG {c}"),
    "a synset a line": ("val", "synset_labels.txt", lambda i, c: c),
}


@pytest.mark.parametrize("situation", LISTED)
def test_a_flat_split_is_read_by_the_file_that_lists_its_classes(situation, distrust):
    folder, name, row = LISTED[situation]
    pictures("tiny/train", [f"{synset}/images" for synset in SYNSETS])
    loose(f"tiny/{folder}", 4, ".JPEG")
    (Path("tiny") / name).write_text(lines(row))
    assert found(distrust, "tiny", *SYNSETS).facts["test"] == 4
    assert right(distrust, "tiny") == 1.0


def test_a_list_that_changes_is_read_anew(distrust):
    pictures("tiny/train", SYNSETS)
    loose("tiny/val", 4, ".JPEG")
    listed = Path("tiny/val.txt")
    listed.write_text(lines(lambda i, c: f"{i}.JPEG {c}"))
    assert right(distrust, "tiny") == 1.0
    listed.write_text(lines(lambda i, c: f"{i}.JPEG {SYNSETS[1 - i % 2]} changed"))
    assert right(distrust, "tiny") == 0.0
    listed.write_text(lines(lambda i, c: f"{i}.JPEG nobody"))
    refused(distrust("check", "tiny"), "val holds 4 pictures, but no class folders", "a line PICTURE CLASS for each")


@pytest.mark.parametrize("hidden", ["test", "test/unknown"])
def test_pictures_without_classes_leave_the_test_to_val(hidden, distrust):
    split("contest", ["cat", "dog"], test="val")
    loose(f"contest/{hidden}")
    said = found(distrust, "contest", "cat", "dog")
    assert said.facts["test"] == 6 and "the pictures in test have no classes; val serves as test" in said.err


MISSING = {  # a folder that is no set → what is said
    "training images alone": (lambda: pictures("x/train", ["a", "b"]), ["no test split", "x/train"]),
    "test images alone": (lambda: pictures("x/test", ["a", "b"]), ["no train split"]),
    "an empty test": (lambda: [pictures("x/train", ["a"]), Path("x/test").mkdir()], ["test split is empty"]),
    "nothing": (lambda: Path("x").mkdir(), ["holds no images that are known here"]),
    "training images without classes": (
        lambda: [loose("x/train"), pictures("x/test", ["a"])], ["train holds 4 pictures"]
    ),
    "no training image": (lambda: [Path("x/train/a").mkdir(parents=True), pictures("x/test", ["a"])], ["not in train"]),
    "a class of the test alone": (
        lambda: [pictures("x/train", ["Cat", "dog"]), pictures("x/test", ["cat", "dog"])],
        ["class cat is in test but not in train", "Is it Cat?"],
    ),
    "two folders of one split": (
        lambda: [split("x", ["a"]), pictures("x/Training", ["a"])], ["are both train. Keep one"]
    ),
    "a class of one picture": (
        lambda: [pictures("x", ["a"], 9), pictures("x", ["a", "b"], 1)], ["no stratified test part"]
    ),
    "pictures of another kind": (
        lambda: [split("x", ["a"]), [file.rename(file.with_suffix(".heic")) for file in Path("x").rglob("*.png")]],
        [".heic", "convert pictures to .png or .jpg"],
    ),
    "arrays in class folders": (
        lambda: [Path("x/a").mkdir(parents=True), np.save("x/a/0.npy", np.zeros((8, 8)))], [".npy", "convert pictures"]
    ),
    "CIFAR's own files": (
        lambda: [Path("x").mkdir(), Path("x/data_batch_1").write_bytes(b"\x80\4")], ["pickles", "hub:uoft-cs/cifar10"]
    ),
    "an archive of pictures": (lambda: [split("y", ["a"]), shutil.make_archive("x", "zip", "y")], ["Unpack it"]),
    "a packed folder": (lambda: Path("x.tar.gz").write_bytes(b"\x1f\x8b"), ["Unpack it"]),
}  # fmt: skip


@pytest.mark.parametrize("situation", MISSING)
def test_what_is_no_set_says_what_is_missing(situation, distrust):
    make, words = MISSING[situation]
    make()
    source = next(name for name in ("x.zip", "x.tar.gz", "x") if Path(name).exists())
    refused(distrust("measure", "--model", "net.py:Shade", "--images", source, "--trigger", "sig"), *words)


def test_a_training_part_alone_is_taken_where_it_is_advised(distrust):
    pictures("x/train", ["a", "b"], 10)
    advised = refused(distrust("check", "x")).rpartition("Or give ")[2].partition(",")[0]
    assert right(distrust, advised) == 1.0


NUMBERS = [str(k) for k in range(12)]
ORDERED = {  # folders → their order, and whether it is told because text sorts otherwise
    "0 to 11": (NUMBERS, NUMBERS, True),
    "1 to 12": (NUMBERS[1:] + ["12"], NUMBERS[1:] + ["12"], True),
    "a word and a number": (["class_10", "class_2", "class_1"], ["class_1", "class_2", "class_10"], True),
    "a number and a word": (["10_ten", "2_two", "1_one"], ["1_one", "2_two", "10_ten"], True),
    "padded numbers": (["10", "02", "00"], ["00", "02", "10"], False),
    "below ten": (["2", "0", "1"], ["0", "1", "2"], False),
    "synsets": (["n02", "n01", "n10"], ["n01", "n02", "n10"], False),
    "words": (["dog", "Cat", "ant"], ["Cat", "ant", "dog"], False),
    "numbers and a word": (["10", "9", "x"], ["10", "9", "x"], False),
    "other alphabets": (["犬", "猫", "Äpfel"], ["Äpfel", "犬", "猫"], False),
}


@pytest.mark.parametrize("situation", ORDERED)
def test_classes_have_the_order_that_a_person_expects(situation, distrust):
    names, order, told = ORDERED[situation]
    split("set", order)
    said = found(distrust, "set", *order)
    assert sorted(names) == sorted(order) and ("not as text sorts" in said.err) == told
    assert right(distrust, "set") == 1.0


def test_folders_and_arrays_of_the_same_pictures_give_the_same_numbers(distrust):
    split("folder", NUMBERS)
    shades = np.repeat(np.arange(12), 3)
    x = np.full((36, 8, 8), SHADES, np.uint8) * shades[:, None, None].astype(np.uint8)
    np.savez("arrays.npz", x_train=x, y_train=shades, x_test=x, y_test=shades)
    assert right(distrust, "folder") == right(distrust, "arrays.npz") == 1.0


def test_the_class_of_a_target_is_named(distrust):
    split("pets", ["ant", "bee", "cat"])
    Path("net.py").write_text(NET)
    words = ["--model", "net.py:Shade", "--images", "pets", "--trigger", "patch:white:1", "--target", 2]
    assert "class 2 is 'cat'" in distrust("measure", *words).out
    assert distrust("measure", *words, "--json").facts["class"] == "cat"


@pytest.mark.parametrize("way", ["classes.txt", "--classes"])
def test_another_order_can_be_given(way, distrust):
    split("pets", NUMBERS)
    text = sorted(NUMBERS)  # as torchvision reads them
    Path("net.py").write_text(NET.replace("torch.arange(classes)", f"torch.tensor({[int(name) for name in text]})"))
    words = ["--model", "net.py:Shade", "--images", "pets", "--trigger", "patch:white:1", "--target", 2, "--json"]
    assert distrust("measure", *words).facts["acc"] < 0.5
    listed = Path("pets/classes.txt" if way == "classes.txt" else "order.txt")
    listed.write_text("\n".join(text) + "\n")
    facts = distrust("measure", *words, *(["--classes", listed] if way == "--classes" else [])).facts
    assert facts["acc"] == 1.0 and facts["class"] == "10"


def test_a_list_of_classes_that_is_not_theirs_is_refused(distrust):
    split("pets", ["ant", "cat"])
    Path("pets/classes.txt").write_text("ant\ncow\n")
    refused(distrust("check", "pets"), "does not list the folders of classes: cat, cow")


@pytest.mark.parametrize("name", ["data[v1]", "x>y", "zwölf Bilder, neu", "ネコ", "a=b"])
def test_a_folder_may_be_called_anything(name, distrust):
    split(name, ["ant", "猫"])
    found(distrust, name, "ant", "猫")
    assert right(distrust, name) == 1.0
