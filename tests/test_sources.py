"""Every kind of source, read from small files made here; and what is said when they are broken."""

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distrust.data.sources import images
from distrust.errors import BadInput, NotFound, UnsafeFile
from distrust.tensors import read_record

REAL = Path(os.environ.get("DISTRUST_DATA") or "unset")
RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (12, 8, 8, 3), np.uint8)  # NHWC
Y = np.arange(12) % 3
NCHW = torch.from_numpy(X.transpose(0, 3, 1, 2).copy())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DISTRUST_DATA", raising=False)


def png(x: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(x).save(file, kind)
    return file.getvalue()


def table(cells=None, labels=Y, **columns):
    """A `datasets` table as the hub serves them."""
    import datasets

    cells = [{"bytes": png(x), "path": f"{row}.png"} for row, x in enumerate(X)] if cells is None else cells
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])}
    data = {"image": cells, "label": list(labels), **columns}
    made = datasets.Dataset.from_dict({name: data[name] for name in data})
    for name, kind in features.items():
        if name in data:
            made = made.cast_column(name, kind)
    return made


def parquet(folder: Path, train=None, test=None, train_name="train.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (table() if train is None else train).to_parquet(folder / train_name)
    (table() if test is None else test).to_parquet(folder / "test.parquet")
    return folder


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def class_folders(root: Path, rows=range(12)) -> Path:
    for row in rows:
        folder = root / "abc"[Y[row]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row:02}.png").write_bytes(png(X[row]))
    return root


def idx(path: Path, x: np.ndarray) -> None:
    header = bytes([0, 0, 8, x.ndim]) + b"".join(n.to_bytes(4, "big") for n in x.shape)
    data = header + x.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def idx_folder(root: Path, end: str = "") -> Path:
    for prefix in ("train", "t10k"):
        idx(root / f"{prefix}-images-idx3-ubyte{end}", X[..., 0])
        idx(root / f"{prefix}-labels-idx1-ubyte{end}", Y)
    return root


def decoding(monkeypatch):
    """Count the images that are decoded."""
    from distrust.data.sources import decode

    seen, real = [], decode.picture_array
    monkeypatch.setattr(decode, "picture_array", lambda *args: seen.append(1) or real(*args))
    return seen


# --- digits ------------------------------------------------------------------------------------------------


def test_digits_are_small_colour_images_with_a_fixed_stratified_split():
    train, test = images("digits")
    assert (len(train), len(test)) == (1347, 450) and train.x.shape[1:] == (3, 16, 16)
    assert train.x.dtype == torch.uint8 and train.x.max() == 255 and train.name == "digits"
    assert train.classes == tuple("0123456789") and train.index.tolist() == list(range(1347))
    share = test.y.bincount() / (train.y.bincount() + test.y.bincount())
    assert (share - 0.25).abs().max() < 0.01
    assert torch.equal(images("digits").test.x, test.x)


def test_digits_can_stay_as_they_are():
    train, _ = images("digits", size=8, channels=1)
    assert train.x.shape[1:] == (1, 8, 8)
    assert set(train.x.unique().tolist()) <= {round(v * 255 / 16) for v in range(17)}


# --- names -------------------------------------------------------------------------------------------------


def test_a_name_is_looked_up_in_the_data_folder_and_then_as_a_path(tmp_path, monkeypatch):
    npz(tmp_path / "birds.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    assert images(tmp_path / "birds.npz").train.name == "birds"
    monkeypatch.setenv("DISTRUST_DATA", str(tmp_path))
    assert images("birds.npz").train.name == images("birds").train.name == "birds"


def test_an_unknown_name_says_what_is_near_where_it_looked_and_what_to_set(tmp_path, monkeypatch):
    with pytest.raises(NotFound, match="DISTRUST_DATA \\(not set\\)"):
        images("cifar01")
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("DISTRUST_DATA", str(tmp_path))
    with pytest.raises(NotFound, match="no image set 'cifar01'. Did you mean 'cifar10'?") as caught:
        images("cifar01")
    assert str(tmp_path) in str(caught.value) and "Set DISTRUST_DATA" in str(caught.value)


@pytest.mark.parametrize("options", [{"size": 0}, {"channels": 2}])
def test_impossible_options_are_refused(options):
    with pytest.raises(BadInput, match="1 or 3 channels"):
        images("digits", **options)


# --- .npz --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [X, X.transpose(0, 3, 1, 2), X / 255, (X / 255).astype(np.float32)],
    ids=["NHWC", "NCHW", "float64", "float32"],
)
def test_npz_layouts_and_ranges_all_become_the_same_images(tmp_path, x):
    train, test = images(npz(tmp_path / "a.npz", x_train=x, y_train=Y[:, None], x_test=x[:3], y_test=Y[:3]))
    assert torch.equal(train.x, NCHW) and torch.equal(test.x, NCHW[:3]) and train.x.is_contiguous()
    assert train.y.tolist() == Y.tolist() and train.classes == ("0", "1", "2") and train.y.dtype == torch.int64


def test_npz_without_a_split_gets_a_fixed_one(tmp_path):
    many = {
        "images": np.tile(X[..., 0], (5, 1, 1)),
        "labels": np.tile(Y, 5),
        "classes": np.array(["a", "b", "c"]),
    }
    train, test = images(npz(tmp_path / "a.npz", **many))
    assert train.x.shape == (48, 1, 8, 8) and test.y.bincount().tolist() == [4, 4, 4]
    assert train.classes == ("a", "b", "c")
    assert torch.equal(images(npz(tmp_path / "b.npz", x=many["images"], y=many["labels"])).test.x, test.x)


def test_size_and_channels_are_changed_as_pillow_does(tmp_path):
    path = npz(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    train, _ = images(path, size=4, channels=1)
    expected = np.asarray(Image.fromarray(X[5]).convert("L").resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(train.x[5, 0], expected)
    gray = npz(tmp_path / "b.npz", x_train=X[..., 0], y_train=Y, x_test=X[..., 0], y_test=Y)
    assert torch.equal(images(gray, channels=3).train.x, NCHW[:, :1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    "x, message",
    [
        (
            X / 255 * 4.76 - 2.12,
            r"must lie in \[0, 1\]; got \[-2.12, 2.64\]. They look normalised: put dt.Normalize",
        ),
        (X.astype(np.float32), r"got \[0, 255\]. If they are meant as 0..255, convert them to uint8"),
        (np.full(X.shape, np.nan), "not finite"),
        (X.astype(np.int64), "got int64"),
        (X.reshape(12, -1), r"got \[12, 192\]"),
    ],
)
def test_npz_images_out_of_range_or_shape_are_refused(tmp_path, x, message):
    with pytest.raises(BadInput, match=message):
        images(npz(tmp_path / "a.npz", x_train=x, y_train=Y, x_test=x, y_test=Y))


@pytest.mark.parametrize(
    "labels, message",
    [
        (Y + 1, r"labels must be 0..2 for 3 classes; got 1..3"),
        (Y * 2, r"labels must be 0..2 for 3 classes; got 0..4"),
        (Y - 1, r"got -1..1"),
        (Y / 2, "whole numbers"),
        (Y[:5], "12 images but 5 labels"),
    ],
)
def test_labels_must_be_0_to_k(tmp_path, labels, message):
    with pytest.raises(BadInput, match=message):
        images(npz(tmp_path / "a.npz", x_train=X, y_train=labels, x_test=X, y_test=labels))


def test_npz_empty_or_missing_splits_and_keys_are_named(tmp_path):
    with pytest.raises(BadInput, match="the test split is empty"):
        images(npz(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:0], y_test=Y[:0]))
    with pytest.raises(BadInput, match="the test split is empty"):
        images(npz(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:0], y_test=Y[:0]), size=4)
    with pytest.raises(BadInput, match=r"no test split \(found: train\)"):
        images(npz(tmp_path / "b.npz", x_train=X, y_train=Y))
    with pytest.raises(BadInput, match="holds data; name its arrays x_train"):
        images(npz(tmp_path / "c.npz", data=X))
    with pytest.raises(BadInput, match="no stratified test part"):
        images(npz(tmp_path / "d.npz", x=X[:3], y=Y[:3]))
    with pytest.raises(BadInput, match="train images are 3×8×8 but test images 3×4×4"):
        images(npz(tmp_path / "e.npz", x_train=X, y_train=Y, x_test=X[:, :4, :4], y_test=Y))


def test_npz_with_python_objects_is_not_loaded(tmp_path):
    objects = np.array([{"run": "me"}] * 12, dtype=object)
    with pytest.raises(UnsafeFile, match="'x_train' holds Python objects"):
        images(npz(tmp_path / "a.npz", x_train=objects, y_train=Y, x_test=X, y_test=Y))


def test_a_file_that_is_no_npz_or_a_damaged_one_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    with pytest.raises(BadInput, match="not an .npz archive"):
        images(tmp_path / "a.npz")
    path = npz(tmp_path / "b.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    data = bytearray(path.read_bytes())
    data[400] ^= 255
    path.write_bytes(data)
    with pytest.raises(BadInput, match="'x_train' cannot be read"):
        images(path)


def test_group_names_a_column_and_arrays_have_none():
    with pytest.raises(BadInput, match="has no columns"):
        images("digits", group="track")


# --- IDX ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_plain_or_packed(tmp_path, end):
    train, test = images(idx_folder(tmp_path, end))
    assert torch.equal(train.x, NCHW[:, :1]) and test.y.tolist() == Y.tolist()
    assert images(tmp_path, channels=3, size=4).train.x.shape == (12, 3, 4, 4)


def test_broken_idx_files_are_refused(tmp_path):
    path = idx_folder(tmp_path) / "t10k-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BadInput, match=r"\[12, 8, 8\] needs 784 bytes, but the file holds 783"):
        images(tmp_path)
    path.write_bytes(b"\0\0\x0d\x03" + whole[4:])
    with pytest.raises(BadInput, match="not an IDX file of bytes: it begins with 00000d03"):
        images(tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match="no test split"):
        images(tmp_path)
    path.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(BadInput, match="cannot be unpacked"):
        images(tmp_path)


# --- parquet -----------------------------------------------------------------------------------------------


def test_parquet_is_decoded_with_its_class_names(tmp_path):
    train, test = images(parquet(tmp_path / "pets"))
    assert torch.equal(train.x, NCHW) and train.y.tolist() == Y.tolist()
    assert train.classes == ("cat", "dog", "emu") and train.name == "pets" and train.group is None
    assert test.index.tolist() == list(range(12))


def test_parquet_shards_in_a_data_folder_are_read_in_order(tmp_path):
    data = tmp_path / "data"
    parquet(data, table().select(range(6)), train_name="train-00000-of-00002.parquet")
    table().select(range(6, 12)).to_parquet(data / "train-00001-of-00002.parquet")
    assert torch.equal(images(tmp_path).train.x, NCHW)


def test_parquet_without_metadata_is_understood(tmp_path):
    import pyarrow.parquet as pq

    for split in ("train", "test"):
        bare = table().with_format("arrow")[:].replace_schema_metadata(None)
        pq.write_table(bare, tmp_path / f"{split}.parquet")
    train, _ = images(tmp_path)
    assert torch.equal(train.x, NCHW) and train.classes == ("0", "1", "2")


def test_group_and_track_columns_become_groups(tmp_path):
    tracks = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1]  # numbered anew within each class
    test = table(track=[-1] * 12, site=["s"] * 12)
    parquet(tmp_path, table(track=tracks, site=list("aabbaabbaabb")), test)
    train, test = images(tmp_path)
    pairs = {(int(y), t): int(g) for y, t, g in zip(Y, tracks, train.group, strict=True)}
    assert len(set(pairs.values())) == len(pairs) == 7
    assert test.group is None, "-1 means that the track is unknown"
    by_site = images(tmp_path, group="site").train.group
    assert by_site.bincount().tolist()[0] == 6 and by_site[0] == by_site[1] == by_site[4] != by_site[2]
    with pytest.raises(NotFound, match="no column 'sight'. Did you mean 'site'?"):
        images(tmp_path, group="sight")


@pytest.mark.parametrize("cut", [0, 40, -30])
def test_one_unreadable_image_is_named_before_anything_is_kept(tmp_path, cut):
    cells = [{"bytes": png(X[row % 12], "JPEG"), "path": f"pics/{row}.jpg"} for row in range(150)]
    cells[130]["bytes"] = cells[130]["bytes"][:cut]
    parquet(tmp_path / "set", test=table(cells, np.arange(150) % 3))
    with pytest.raises(BadInput, match=r"set: test image 130 \(pics/130.jpg\) cannot be read: .*Replace or remove"):
        images(tmp_path / "set")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_images_of_different_sizes_or_channels_need_to_be_told(tmp_path):
    cells = [{"bytes": png(x), "path": f"{row}.png"} for row, x in enumerate(X)]
    cells[7]["bytes"] = png(X[7, :5])
    cells[9]["bytes"] = png(X[9, ..., 0])
    parquet(tmp_path, table(cells))
    with pytest.raises(BadInput, match=r"train image 7 \(7.png\) is 3×5×8, but the first is 3×8×8; pass size="):
        images(tmp_path)
    with pytest.raises(BadInput, match=r"train image 9 \(9.png\) is 1×8×8"):
        images(tmp_path, size=8)
    train, _ = images(tmp_path, size=8, channels=3)
    assert torch.equal(train.x[:7], NCHW[:7])


def test_sixteen_bit_images_are_refused(tmp_path):
    deep = [{"bytes": png(X[0, ..., 0].astype(np.uint16) * 256), "path": "deep.png"}] * 12
    with pytest.raises(BadInput, match=r"deep.png\) cannot be read: .*more than 8 bits"):
        images(parquet(tmp_path, table(deep)))


def test_parquet_splits_columns_and_labels_are_checked(tmp_path):
    folder = parquet(tmp_path / "a")
    (folder / "test.parquet").unlink()
    with pytest.raises(BadInput, match=r"no test split \(found: train\)"):
        images(folder)
    with pytest.raises(BadInput, match="test split is empty"):
        images(parquet(tmp_path / "b", test=table().select([])))
    with pytest.raises(BadInput, match="train: no label column among image"):
        images(parquet(tmp_path / "c", table().remove_columns("label")))
    with pytest.raises(BadInput, match="no image column among label"):
        images(parquet(tmp_path / "d", table().remove_columns("image")))
    with pytest.raises(BadInput, match=r"labels must be 0..2 for 3 classes; got -1..1"):
        images(parquet(tmp_path / "e", table(labels=[-1, 0, 1] * 4)))
    data = (parquet(tmp_path / "f") / "train.parquet").read_bytes()
    (tmp_path / "f" / "train.parquet").write_bytes(data[:-50])
    with pytest.raises(BadInput, match="f cannot be read"):
        images(tmp_path / "f")


# --- folders -----------------------------------------------------------------------------------------------


def test_image_folders_are_read_in_sorted_order(tmp_path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "val", [0, 1])
    (tmp_path / "train" / "a" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".git").mkdir()
    train, test = images(tmp_path)
    order = np.argsort(Y, kind="stable")
    assert torch.equal(train.x, NCHW[order]) and train.y.tolist() == sorted(Y)
    assert train.classes == ("a", "b", "c") and test.y.tolist() == [0, 1]


def test_class_folders_alone_get_a_fixed_split_that_the_cache_records(tmp_path):
    root = class_folders(tmp_path / "set")
    for row in range(12):
        (root / "abc"[Y[row]] / f"more{row}.png").write_bytes(png(X[row]))
    train, test = images(root)
    assert len(train) == 19 and len(test) == 5 and set(test.y.tolist()) == {0, 1, 2}
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    assert "stratified, 20 % to test" in read_record(kept)["split"]


def test_folders_with_a_broken_file_a_missing_split_or_no_images(tmp_path):
    root = tmp_path / "set"
    class_folders(root / "train")
    with pytest.raises(BadInput, match="no test split"):
        images(root)
    class_folders(root / "test")
    broken = root / "test" / "b" / "04.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"set: test image 5 \(.*04.png\) cannot be read"):
        images(root)
    broken.unlink()
    (root / "test" / "z").mkdir()
    (root / "test" / "z" / "0.png").write_bytes((root / "test" / "a" / "00.png").read_bytes())
    with pytest.raises(BadInput, match="class z is in test but not in train"):
        images(root)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadInput, match="no images that are known here"):
        images(tmp_path / "nothing")


# --- the hub -----------------------------------------------------------------------------------------------


def test_a_hub_set_is_mapped_by_its_features(monkeypatch):
    import datasets

    asked = {}

    def load(name, revision=None):
        asked.update(name=name, revision=revision, bars=not datasets.are_progress_bars_disabled())
        both = {"train": table(), "validation": table()}
        return datasets.DatasetDict(
            {k: t.rename_columns({"image": "img", "label": "fine_label"}) for k, t in both.items()}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    train, test = images("hub:someone/pets@v2")
    assert asked == {"name": "someone/pets", "revision": "v2", "bars": False}
    assert not datasets.are_progress_bars_disabled(), "the setting is put back"
    assert torch.equal(train.x, NCHW) and train.classes == ("cat", "dog", "emu") and len(test) == 12
    images("hub:someone/pets")
    assert asked["revision"] is None


def test_a_hub_set_is_kept_if_its_commit_is_known(monkeypatch):
    import datasets

    both = datasets.DatasetDict(train=table(), test=table())
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision=None: both)
    seen = decoding(monkeypatch)
    for commit, decoded in (("1", 24), ("1", 24), ("2", 48)):
        for part in both.values():
            part.info.download_checksums = {f"hf://datasets/a/b@{commit}/data.parquet": {"num_bytes": 1}}
        assert torch.equal(images("hub:a/b").train.x, NCHW) and len(seen) == decoded


def test_a_hub_that_does_not_answer_is_one_clear_error(monkeypatch):
    import datasets

    def load(name, revision=None):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(BadInput, match=r"hub:a/b could not be loaded \(ConnectionError: no route\). Check the name"):
        images("hub:a/b")


# --- what is kept ------------------------------------------------------------------------------------------


def test_images_are_decoded_once_until_a_file_or_an_option_changes(tmp_path, monkeypatch):
    folder, seen = parquet(tmp_path / "set", table(group=list(range(6)) * 2)), decoding(monkeypatch)
    first = images(folder)
    assert len(seen) == 24
    again = images(folder)
    assert len(seen) == 24
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y) and one.classes == other.classes
    assert torch.equal(first.train.group, again.train.group) and again.test.group is None
    again.train.x.zero_()  # copy-on-write: neither a warning nor a change of the file
    assert torch.equal(images(folder).train.x, first.train.x)
    images(folder, size=4)
    assert len(seen) == 48
    os.utime(folder / "train.parquet", ns=(1, 1))
    images(folder)
    assert len(seen) == 72


def test_a_damaged_or_unwritable_cache_is_no_failure(tmp_path, monkeypatch):
    folder, seen = parquet(tmp_path / "set"), decoding(monkeypatch)
    images(folder)
    (kept,) = (tmp_path / "cache" / "images").iterdir()
    kept.write_bytes(kept.read_bytes()[:-10])
    assert torch.equal(images(folder).train.x, NCHW) and len(seen) == 48
    assert list(kept.parent.iterdir()) == [kept], "no draft is left behind"
    (tmp_path / "file").write_text("in the way")
    assert torch.equal(images(folder, cache=tmp_path / "file" / "cache").train.x, NCHW) and len(seen) == 72


# --- real files --------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not ((REAL / "mnist").is_dir() and (REAL / "gtsrb").is_dir()),
    reason="DISTRUST_DATA does not name a folder with mnist and gtsrb",
)
@pytest.mark.slow
def test_mnist_and_the_tracks_of_gtsrb(monkeypatch):
    monkeypatch.setenv("DISTRUST_DATA", str(REAL))
    train, test = images("mnist")
    assert (len(train), len(test)) == (60_000, 10_000) and train.x.shape[1:] == (1, 28, 28)
    signs, unseen = images("gtsrb")
    assert len(signs.classes) == 43 and len(signs.group.unique()) == 1307 and unseen.group is None
