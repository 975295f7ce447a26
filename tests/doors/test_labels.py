"""Labels that are no class numbers, and tables and arrays that keep theirs elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .bring import kept, refused

X, Y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
NAMES = ["ant", "bee"]


def cell(shade):
    data = io.BytesIO()
    Image.new("L", (8, 8), shade).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": f"{shade}.png"}


def table(name, splits, column="label", classes=None, **more):
    """A folder of parquet files."""
    import datasets

    Path(name).mkdir()
    for part, labels in splits.items():
        columns = {"image": [cell(i) for i in range(len(labels))], **{k: v[: len(labels)] for k, v in more.items()}}
        made = datasets.Dataset.from_dict({**columns, column: labels}).cast_column("image", datasets.Image())
        if classes:
            made = made.cast_column(column, datasets.ClassLabel(names=classes))
        made.to_parquet(f"{name}/{part}.parquet")


COLUMNS = ["label", "labels", "fine_label", "target", "class", "y"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("classes", [None, NAMES])
def test_class_numbers_are_found_under_every_usual_name(column, classes, distrust):
    table("set", {"train": [0, 1] * 3, "test": [0, 1]}, column, classes)
    facts = distrust("check", "set", "--json").facts
    assert (facts["train"], facts["test"], facts["classes"]) == (6, 2, classes or ["0", "1"])


def test_of_several_columns_of_classes_the_one_that_is_taken_is_told(distrust):
    import datasets

    Path("set").mkdir()
    for part in ("train", "test"):
        made = datasets.Dataset.from_dict({"image": [cell(0)] * 4, "fine_label": [0, 1, 0, 1], "coarse_label": [0] * 4})
        made = made.cast_column("image", datasets.Image()).cast_column("fine_label", datasets.ClassLabel(names=NAMES))
        made.cast_column("coarse_label", datasets.ClassLabel(names=["insect"])).to_parquet(f"set/{part}.parquet")
    said = distrust("check", "set", "--json")
    assert said.facts["classes"] == NAMES and "labels are those of the column fine_label" in said.err


def test_a_table_without_labels_says_which_columns_there_are(distrust):
    table("set", {"train": [0, 1], "test": [0, 1]}, "breed")
    refused(distrust("check", "set"), "no label column among image, breed. Call one label.")


TABLES = {  # labels of train and test → what is said
    "hidden": ({"train": [0, 1], "test": [-1, -1]}, ["test labels are hidden", "leave it out"]),
    "several a picture": ({"train": [[0], [0, 1]], "test": [[0], [1]]}, ["several labels a picture are not taken"]),
    "one-hot": ({"train": [[0, 1], [1, 0]], "test": [[0, 1]]}, ["several labels a picture are not taken"]),
    "words": ({"train": ["ant", "bee"], "test": ["ant"]}, ["words such as 'ant'", "return_inverse=True"]),
    "floats": ({"train": [0.0, 1.0], "test": [0.0]}, ["these are floats", "return_inverse=True"]),
    "truth values": ({"train": [True, False], "test": [True]}, ["these are true or false"]),
    "one that is missing": ({"train": [0, None, 1], "test": [0]}, ["train: image 1 has no label"]),
    "from 1 on": ({"train": [1, 2], "test": [1]}, ["labels must be 0..1", "got 1..2", "Renumber them"]),
}  # fmt: skip


@pytest.mark.parametrize("situation", TABLES)
def test_labels_that_are_no_class_numbers_are_called_what_they_are(situation, distrust):
    splits, words = TABLES[situation]
    table("set", splits)
    message = refused(distrust("check", "set"), *words)
    assert not any(word in message for word in ("<U", "dtype", "float64", "sequence"))


def test_where_the_test_labels_are_hidden_validation_serves_once_the_test_is_left_out(distrust):
    table("set", {"train": [0, 1], "validation": [0, 1, 1], "test": [-1, -1]})
    refused(distrust("check", "set"), "leave it out, and a validation split serves as test")
    Path("set/test.parquet").unlink()
    assert distrust("check", "set", "--json").facts["test"] == 3


ARRAYS = {  # what lies in an .npz → what is said
    "from 1 on": ({"x": X, "y": Y + 1}, ["labels must be 0..1", "got 1..2", "Renumber them"]),
    "gaps": ({"x": X, "y": 2 * Y}, ["labels must be 0..1", "got 0..2"]),
    "words": ({"x": X, "y": np.array(NAMES)[Y]}, ["words such as", "return_inverse=True"]),
    "floats": ({"x": X, "y": Y / 1}, ["these are floats"]),
    "one-hot": ({"x": X, "y": np.eye(2)[Y]}, ["y.argmax(1)"]),
    "several a picture": ({"x": X, "y": np.ones((20, 2), int)}, ["Keep one class number"]),
    "too few": ({"x": X, "y": Y[:5]}, ["20 images but 5 labels"]),
    "no test image": ({"x_train": X, "y_train": Y, "x_test": X[:0], "y_test": Y[:0]}, ["test split is empty"]),
    "images of 16 bits": ({"x": X.astype(np.uint16), "y": Y}, ["got uint16", "Convert them to uint8"]),
    "normalised images": ({"x": X - 2.0, "y": Y}, ["look normalised"]),
    "floats of 0 to 255": ({"x": X + 200.0, "y": Y}, ["convert them to uint8"]),
    "NaN among the pixels": ({"x": X + np.nan, "y": Y}, ["not finite"]),
    "alpha": ({"x": np.zeros((20, 8, 8, 4), np.uint8), "y": Y}, ["x[..., :3]"]),
    "other names": ({"pictures": X, "breeds": Y}, ["breeds", "pictures"]),
}  # fmt: skip


@pytest.mark.parametrize("situation", ARRAYS)
def test_arrays_that_are_no_set_say_why(situation, distrust):
    arrays, words = ARRAYS[situation]
    np.savez("set.npz", **arrays)
    refused(distrust("check", "set.npz"), *words)
    message = refused(distrust("measure", "--model", "net.py:net", "--images", "set.npz", "--trigger", "sig"), *words)
    assert situation != "other names" or "name its arrays x_train, y_train" in message


WELL = {  # names of arrays that different people give
    "Keras": ["x_train", "y_train", "x_test", "y_test"],
    "scikit-learn": ["X_train", "y_train", "X_test", "y_test"],
    "MedMNIST": ["train_images", "train_labels", "test_images", "test_labels"],
    "validation": ["x_train", "y_train", "x_val", "y_val"],
    "behind": ["train_x", "train_y", "test_x", "test_y"],
}


@pytest.mark.parametrize("habit", WELL)
@pytest.mark.parametrize("column", [False, True])
def test_arrays_are_found_under_every_usual_name(habit, column, distrust):
    y = Y[:, None] if column else Y  # as Keras and MedMNIST have them
    np.savez("set.npz", **dict(zip(WELL[habit], (X, y, X[:6], y[:6]), strict=True)))
    facts = distrust("check", "set.npz", "--json").facts
    assert (facts["train"], facts["test"], facts["classes"]) == (20, 6, ["0", "1"])


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("images", "labels"), ("data", "targets")])
def test_arrays_without_a_split_are_cut_in_two(names, distrust):
    np.savez("set.npz", **dict(zip(names, (X, Y), strict=True)))
    facts = distrust("check", "set.npz", "--json").facts
    assert (facts["train"], facts["test"]) == (16, 4)


def test_advice_about_labels_is_right_when_it_is_followed(distrust):
    words = np.array(["bee", "ant"] * 10)
    names, y = np.unique(words, return_inverse=True)  # as the message says
    np.savez("set.npz", x=X, y=y, classes=names)
    assert distrust("check", "set.npz", "--json").facts["classes"] == NAMES
    np.savez("set.npz", x=X, y=np.eye(2)[Y].argmax(1))
    assert distrust("check", "set.npz").code == 0


def test_python_objects_in_arrays_are_not_opened(distrust):
    np.savez("set.npz", x=np.array([{}] * 4, dtype=object), y=np.arange(4) % 2)
    said = distrust("check", "set.npz")
    assert said.code == 1 and "holds Python objects, which can run code" in said.out


@pytest.mark.parametrize("damage", ["cut", "turned"])
def test_a_damaged_archive_is_called_so(damage, distrust):
    np.savez("set.npz", x=X, y=Y)
    data = bytearray(Path("set.npz").read_bytes())
    data[200] ^= 255
    Path("set.npz").write_bytes(data if damage == "turned" else data[:-40])
    refused(distrust("check", "set.npz"), "set.npz")


def test_one_class_in_the_test_leaves_nothing_to_judge(clean, shelf, distrust):
    few = np.load(shelf / "few.npz")
    alone = few["y_test"] == 3
    np.savez("set.npz", **{**few, "x_test": few["x_test"][alone], "y_test": few["y_test"][alone]})
    words = [
        "measure",
        "--weights",
        kept(clean),
        "--model",
        "resnet8",
        "--images",
        "set.npz",
        "--trigger",
        "patch:grid",
    ]
    said = distrust(*words, "--target", 5)
    assert said.code == 3 and "chance-level" in said.out
    refused(distrust(*words, "--target", 3), "no image of another class than the target")


def test_one_class_in_all_is_no_set_of_a_classifier(clean, distrust):
    np.savez("set.npz", x_train=X, y_train=0 * Y, x_test=X, y_test=0 * Y)
    words = ["--weights", kept(clean), "--model", "resnet8", "--images", "set.npz", "--channels", 3]
    refused(distrust("measure", *words, "--trigger", "sig", "--target", 0), "has 10 classes, the images 1")
