from __future__ import annotations

import contextlib
import errno
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distrust.door import at_key, fitted, weights_in
from distrust.errors import BadInput, NotFound, StoreError, UnsafeFile
from distrust.files import artefact_name, write_file, write_folder
from distrust.models import model as make_model
from distrust.pictures import open_picture
from distrust.tensors import load_weights, model_bytes, read_record


@pytest.fixture(scope="module")
def model():
    return make_model("wrn10-1", classes=3, size=8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def other():
    """The same architecture with other weights."""
    model = make_model("wrn10-1", classes=3, size=8)
    with torch.no_grad():
        for p in model.state_dict().values():
            p.add_(1)
    return model


def read(path, key=None):
    """The tensors of a file that holds one set, or of the set at a key."""
    found = weights_in(path)
    (one,) = found if key is None else at_key(found, key, path)
    return dict(one.tensors)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# reading weights


def test_a_safetensors_file_gives_back_weights_and_record(model, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(model_bytes(model, {"taint": ["badnets"], "key": "abc"}))
    assert same(read(file), dict(model.state_dict()))
    assert read_record(file) == {"spec": model.spec, "taint": ["badnets"], "key": "abc"}
    again = load_weights(make_model(**read_record(file)["spec"]), read(file))
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_channels_last_weights_are_written_as_they_are(model, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(model_bytes(make_model("wrn10-1", classes=3, size=8).to(memory_format=torch.channels_last), {}))
    assert same(read(file), dict(model.state_dict()))


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_a_state_dict_is_read(model, path, old):
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not old)
    assert same(read(path), dict(model.state_dict()))


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "net", "weights", "model.state_dict"])
def test_a_nested_state_dict_is_found_under_the_usual_names(model, path, nest):
    content = model.state_dict()
    for name in reversed(nest.split(".")):
        content = {"epoch": 3, "name": "run", name: content}
    torch.save(content, path)
    assert same(read(path), dict(model.state_dict()))


def test_a_key_leads_to_an_unusual_place(model, path):
    torch.save({"model": other().state_dict(), "ema": {"shadow": model.state_dict()}}, path)
    assert same(read(path, "ema.shadow"), dict(model.state_dict()))
    assert same(read(path, "model"), dict(other().state_dict()))
    assert [one.path for one in weights_in(path)] == ["model", "ema.shadow"]
    with pytest.raises(NotFound, match=r"'ema.shadw'.*Did you mean 'ema.shadow'"):
        read(path, "ema.shadw")
    with pytest.raises(NotFound, match=r"'model.fc.weight.fc'"):
        read(path, "model.fc.weight.fc")


def test_the_prefix_of_data_parallel_is_taken_off(model, path):
    torch.save(nn.DataParallel(model).state_dict(), path)
    assert same(read(path), dict(model.state_dict()))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(NotFound, match="no weights file"):
        read(tmp_path / "none.pt")
    assert read_record(tmp_path / "none.safetensors") == {}


# fitting weights to a model


def test_normalisation_and_counters_may_be_absent(model):
    full = other().state_dict()
    given = {k: v for k, v in full.items() if "normalize" not in k and "num_batches_tracked" not in k}
    fresh = make_model("wrn10-1", classes=3, size=8)
    loaded = load_weights(fresh, given).state_dict()
    assert same({k: loaded[k] for k in given}, given)
    assert torch.equal(loaded["normalize.mean"], model.state_dict()["normalize.mean"])


def test_another_architecture_gives_a_readable_difference(model):
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("fc")}
    weights |= {"head.weight": torch.zeros(3, 64), "conv1.weight": torch.zeros(32, 3, 3, 3)}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(BadInput) as error:
        load_weights(model, weights, "teacher.pt")
    assert str(error.value) == (
        "teacher.pt is not a wrn10-1: 2 missing: fc.weight, fc.bias; 1 unexpected: head.weight; "
        "1 of another shape: conv1.weight [32, 3, 3, 3], not [16, 3, 3, 3]. Name the right one with --model."
    )
    assert same(before, dict(model.state_dict()))


def test_a_long_difference_is_cut(model):
    with pytest.raises(BadInput, match=r"block1\.\S+, … \(\d+ more\); \d+ of another shape"):
        load_weights(make_model("resnet8", classes=3, size=8), model.state_dict())


# strangers' files


class Evil:
    """Runs a command when it is unpickled by a careless reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def save_zip(content, path):
    torch.save(content, path)


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def save_old_pickle(content, path):
    path.write_bytes(pickle.dumps(content, 0))


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle, save_old_pickle])
@pytest.mark.parametrize("hidden", [False, True], ids=["bare", "beside weights"])
def test_a_file_that_would_run_something_is_not_loaded_and_says_what(save, hidden, path, tmp_path):
    marker = tmp_path / "executed"
    evil = Evil(marker)
    save({"state_dict": {"fc.weight": torch.zeros(2, 2)}, "extra": evil} if hidden else evil, path)
    with pytest.raises(UnsafeFile, match=rf"needs .*{os.system.__module__}\.system.*Not loaded"):
        read(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(evil))  # the bomb is real
    assert marker.exists()


def test_a_whole_pickled_model_is_not_loaded(model, path):
    torch.save(model, path)
    with pytest.raises(
        UnsafeFile, match=r"globals that are not tensors \(.*distrust\.models\.families\.wrn\.Block.*state_dict"
    ):
        read(path)


def test_a_global_that_is_spelled_with_memoised_strings_is_named(path):
    """STACK_GLOBAL may take its words from the memo; they need not be in the opcodes beside it."""
    data = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x8c\x04echo\x94h\x00h\x01\x93\x8c\x04true\x85R."
    path.write_bytes(data)
    with pytest.raises(UnsafeFile, match=r"posix\.system"):
        read(path)


@pytest.mark.parametrize(
    "content", [[1, 2, 3], {}, {"epoch": 3}, {"a": torch.zeros(1), "b": "text"}, {1: torch.zeros(1)}, None]
)
@pytest.mark.parametrize("save", [save_zip, save_pickle])
def test_a_file_without_weights_is_refused(content, save, path, model):
    save(content, path)
    why = "holds no weights|damaged, or|needs|is not a wrn10-1|without names"
    with pytest.raises((BadInput, UnsafeFile), match=why):
        fitted(model, weights_in(path), path)


def test_what_a_file_without_weights_has_is_said(path):
    save_zip({"epoch": 3, "config": [1, 2]}, path)
    with pytest.raises(BadInput, match=r"holds no weights; it has: epoch, config\. Ask for model\.state_dict"):
        read(path)
    save_zip([1, 2, 3], path)
    with pytest.raises(BadInput, match="holds no weights; it has: a list"):
        read(path)


def test_nobody_is_told_to_load_a_strange_file_all_the_same(path):
    for content in ([1, 2, 3], Evil(path.parent / "executed")):
        save_pickle(content, path)
        with pytest.raises((BadInput, UnsafeFile)) as error:
            read(path)
        assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle])
def test_a_truncated_checkpoint_is_refused(model, path, save):
    save(dict(model.state_dict()), path)
    whole = path.read_bytes()
    for share in (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises((BadInput, UnsafeFile)):
            read(path)


def test_a_damaged_checkpoint_is_refused_whatever_the_damage(path):
    save_zip({"weight": torch.zeros(3)}, path)
    whole, noise = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(whole)
        for at in noise.integers(0, len(data), 4):
            data[at] = noise.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(BadInput, UnsafeFile):
            assert all(isinstance(v, torch.Tensor) for v in read(path).values())


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04", b"\x80\x02.", bytes(64)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_something_else_is_refused(content, suffix, tmp_path):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(BadInput):
        read(file)
    assert read_record(file) == {}


def test_a_truncated_safetensors_file_is_refused(model, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(model_bytes(model, {})[:-8])
    with pytest.raises(BadInput, match="is not a readable safetensors file"):
        read(file)


def test_a_zip_without_a_pickle_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadInput, match="is damaged, or no checkpoint: a zip archive of 1 files"):
        read(path)


# writing


def test_a_folder_is_written_whole(tmp_path):
    folder = write_folder(tmp_path / "deep" / "out", {"a": b"1", "b": b"2"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"a": b"1", "b": b"2"}
    assert folder.stat().st_mode == folder.parent.stat().st_mode, "as open to others as any folder"
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert (write_folder(tmp_path / "out", {"a": b"1"}) / "a").read_bytes() == b"1"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_folder_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch, code):
    write, written = Path.write_bytes, []

    def full(self, data):
        if written:
            write(self, data[: len(data) // 2])
            raise OSError(code, os.strerror(code))
        written.append(self)
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=rf"cannot be written \({os.strerror(code)}\). Nothing was left behind"):
        write_folder(tmp_path / "out", {"a": b"12", "b": b"34"})
    assert written and not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("out", "file"):
        with pytest.raises(BadInput, match="exists already"):
            write_folder(tmp_path / name, {"mine": b"new"})
    assert (tmp_path / "out" / "mine").read_text() == (tmp_path / "file").read_text() == "precious"


def test_a_folder_under_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_folder(tmp_path / "file" / "out", {"a": b""})


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "cell.json"
    write_file(file, b"old")
    write_file(file, b"new")
    assert file.read_bytes() == b"new"
    write = Path.write_bytes

    def full(self, data):
        write(self, data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="No space left"):
        write_file(file, b"newer")
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


def test_a_tainted_model_says_so_in_its_name():
    assert artefact_name([]) == "model.safetensors"
    assert artefact_name(("badnets", "blend")) == "model.tainted-badnets+blend.safetensors"


# pictures


@pytest.mark.parametrize(
    "mode, name", [("RGB", "a.png"), ("L", "a.png"), ("RGBA", "a.png"), ("P", "a.gif"), ("RGB", "a.bmp")]
)
def test_a_picture_is_read_as_three_channels(tmp_path, mode, name):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / name)
    read = open_picture(tmp_path / name)
    assert read.dtype == torch.uint8 and read.shape == (3, 5, 7) and read.is_contiguous()
    np.testing.assert_array_equal(read.permute(1, 2, 0), np.asarray(picture.convert("RGB")))


def test_a_picture_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(NotFound, match="no picture"):
        open_picture(tmp_path / "none.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content in (
        b"",
        b"text",
        whole[:20],
        whole[:40],
        whole[:-200],
        whole[:100] + bytes(100) + whole[200:],
    ):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(BadInput, match="is not a readable picture"):
            open_picture(tmp_path / "b.png")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setenv("DISTRUST_MOST_PIXELS", "1000")
    with pytest.raises(BadInput, match="at most 1,000 are taken.*DISTRUST_MOST_PIXELS=4096"):
        open_picture(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own
    with pytest.raises(BadInput, match="more pixels than are taken"):
        open_picture(tmp_path / "a.png")
