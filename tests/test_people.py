"""Folders of pictures as people have them: what is a class, in which order, and which pixels a viewer shows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from distrust.data.sources import images
from distrust.errors import BadInput, Notice


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))


def folder(root, split, names, count=6, level=0):
    for k, name in enumerate(names):
        (root / split / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), level + 10 * k + i).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    "train, test",
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "VAL"), ("train", "valid"), ("Training", "Validation")],
)
def test_splits_are_known_whatever_they_are_called(train, test, tmp_path):
    folder(folder(tmp_path / "kaggle", train, ["cat", "dog"]), test, ["cat", "dog"], 3)
    first, second = images(tmp_path / "kaggle")
    assert first.classes == ("cat", "dog") and (len(first), len(second)) == (12, 6)


def test_two_folders_of_one_split_are_refused(tmp_path):
    root = folder(folder(tmp_path / "both", "train", ["cat"]), "Training", ["cat"])
    with pytest.raises(BadInput, match="are both train. Keep one"):
        images(folder(root, "test", ["cat"]))


def test_a_folder_without_pictures_is_no_class_and_is_told(tmp_path):
    root = folder(folder(tmp_path / "pets", "train", ["cat", "dog"]), "test", ["cat", "dog"])
    for name in ("__MACOSX", "labels"):
        (root / "train" / name).mkdir()
        (root / "train" / name / "notes.txt").write_text("none")
    with pytest.warns(Notice, match="are left out: __MACOSX, labels"):
        train, _ = images(root)
    assert train.classes == ("cat", "dog")


def test_pictures_without_class_folders_are_told_apart_from_no_pictures(tmp_path):
    root = folder(tmp_path / "imagenet", "train", ["n01", "n02"])
    (root / "val").mkdir()
    for i in range(10):
        Image.new("L", (8, 8), i).save(root / "val" / f"{i}.png")
    with pytest.raises(BadInput, match="val holds 10 pictures, but no class folders"):
        images(root)


def test_numbers_are_classes_in_numeric_order(tmp_path):
    names = [str(k) for k in range(12)]
    with pytest.warns(Notice, match="numbered as 0, 1, 2 …, not as text sorts .10 before 2."):
        first, second = images(folder(folder(tmp_path / "digits12", "train", names), "test", names))
    assert first.classes == second.classes == tuple(names)
    assert [int(first.x[first.y == k].min()) for k in range(12)] == [10 * k for k in range(12)]
    with pytest.warns(Notice, match="classes.txt there"):
        alone, _ = images(folder(tmp_path / "alone", ".", names, 10))
    assert alone.classes == tuple(names)
    mixed, _ = images(folder(tmp_path / "mixed", ".", ["10", "9", "x"], 10))
    assert mixed.classes == ("10", "9", "x")


def test_a_list_of_classes_gives_their_order(tmp_path):
    root = folder(folder(tmp_path / "pets", "train", ["cat", "dog", "ant"]), "test", ["cat", "dog", "ant"])
    (root / "classes.txt").write_text("dog\nant\ncat\n\n")
    train, _ = images(root)
    assert train.classes == ("dog", "ant", "cat")
    (root / "classes.txt").write_text("dog\ncow\ncat\n")
    with pytest.raises(BadInput, match=r"classes\.txt does not list the folders of classes: ant, cow"):
        images(root)


def pixels(tmp_path, picture, **save):
    """What a network gets of a picture that is the only one of its class."""
    for split in ("train", "test"):
        (tmp_path / "set" / split / "a").mkdir(parents=True)
        picture.save(tmp_path / "set" / split / "a" / "0.png", **save)
    return images(tmp_path / "set")[0].x[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_its_camera_was_held(orientation, tmp_path):
    seen = np.zeros((8, 8, 3), np.uint8)
    seen[0], seen[:, 0, 1] = 255, 128  # a band at the top, another on the left
    raw = Image.fromarray(seen)
    turns = Image.Transpose
    raw = {
        1: raw, 2: raw.transpose(turns.FLIP_LEFT_RIGHT), 3: raw.transpose(turns.ROTATE_180),
        4: raw.transpose(turns.FLIP_TOP_BOTTOM), 5: raw.transpose(turns.TRANSPOSE), 6: raw.transpose(turns.ROTATE_90),
        7: raw.transpose(turns.TRANSVERSE), 8: raw.transpose(turns.ROTATE_270),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert torch.equal(pixels(tmp_path, raw, exif=exif), torch.from_numpy(seen).permute(2, 0, 1))


@pytest.mark.parametrize("hidden", [0, 200])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_whatever_lies_under_it(hidden, mode, tmp_path):
    picture = Image.new("RGBA", (8, 8), (hidden, hidden, hidden, 0))
    picture.paste((10, 10, 10, 255), (0, 0, 4, 8))
    if mode == "P":
        flat = Image.new("P", (8, 8), 1)
        flat.putpalette([10, 10, 10, hidden, hidden, hidden])
        flat.paste(0, (0, 0, 4, 8))
        seen = pixels(tmp_path, flat, transparency=1)
    else:
        seen = pixels(tmp_path, picture.convert(mode))
    assert seen.shape == (3, 8, 8) and (seen[:, :, :4] == 10).all() and (seen[:, :, 4:] == 255).all()


def test_opaque_pictures_are_taken_as_they_are(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(pixels(tmp_path, Image.fromarray(drawn)), torch.from_numpy(drawn).permute(2, 0, 1))


def table(tmp_path, **labels):
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "table"
    root.mkdir()
    for split, y in labels.items():
        cells = []
        for i in range(len(y)):
            Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
            cells.append({"bytes": (tmp_path / f"{i}.png").read_bytes(), "path": f"{i}.png"})
        features = (
            None if isinstance(y[0], list) else datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
        )
        datasets.Dataset.from_dict({"image": cells, "label": y}, features=features).to_parquet(
            root / f"{split}.parquet"
        )
    return root


def test_hidden_and_several_labels_are_called_so(tmp_path):
    with pytest.raises(BadInput, match="labels are hidden"):
        images(table(tmp_path, train=[0, 1, 2], test=[-1, -1]))


def test_several_labels_a_picture_are_called_so(tmp_path):
    with pytest.raises(BadInput, match="several labels a picture"):
        images(table(tmp_path, train=[[0], [1, 2]], test=[[0], [1]]))
