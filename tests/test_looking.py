"""What a file is, told by its content: odd names, several things in one file, what is known and no model, metadata."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from distrust import Backdoor, check, images, load, open_suspect, rng, save_set, triggers
from distrust.door import fitted, weights_in
from distrust.errors import BadInput, UnsafeFile
from distrust.models import model as make_model
from distrust.tensors import model_bytes, opened, read_record

NET = make_model("resnet8", classes=3, size=8, rng=rng(0))
WEIGHTS = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
X = torch.rand(6, 3, 8, 8, generator=rng("x"))
Y = torch.arange(6) % 3
MASK = torch.zeros(8, 8).index_fill(0, torch.tensor([6, 7]), 1)  # the two lowest rows
PIXELS = torch.randint(256, (8, 8, 3), generator=rng("pixels"), dtype=torch.uint8).numpy()


def saved(content):
    return lambda path: torch.save(content, path)


def zipped(**arrays):
    def write(path):
        with path.open("wb") as file:
            np.savez(file, **{k: np.asarray(v) for k, v in arrays.items()})

    return write


def plain(text):
    return lambda path: path.write_text(text)


STUDY = 'name = "a"\nteacher = "resnet8"\nimages = "digits"\nattack = ["none"]\n'
METHOD = "from distrust.marks import defense\n\n@defense(paper='none')\ndef mine(model, clean):\n    return model\n"
CONTENT = {  # a name that says nothing, or something else → what writes it, what it is, words in what to type next
    "weights.txt": (saved(WEIGHTS), "weights", "--weights weights.txt --model NAME --images DIR"),
    "tensors.bin": (lambda path: save_file(WEIGHTS, path), "weights", "distrust scan tensors.bin"),
    "legacy": (lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False), "weights", "--weights"),
    "pictures.pt": (zipped(images=X.repeat(3, 1, 1, 1), labels=Y.repeat(3)), "images", "--images pictures.pt"),
    "split.dat": (zipped(x_train=PIXELS[None], y_train=[0], x_test=PIXELS[None], y_test=[0]), "images", "--images"),
    "condensed.json.npz": (zipped(images=X, labels=torch.eye(3)[Y]), "synthetic set", "distrust scan"),
    "normal.npz": (zipped(images=3 * X - 1, labels=Y), "synthetic set", "distrust scan normal.npz"),
    "pair.safetensors": (saved({"images": X, "labels": Y}), "synthetic set", "distrust scan pair.safetensors"),
    "seen.npz": (zipped(pattern=PIXELS, mask=MASK), "trigger", "--trigger seen.npz --target"),
    "grid.pt": (saved({"pattern": X[0], "mask": MASK[None]}), "trigger", "--trigger grid.pt"),
    "picture.pt": (lambda path: Image.fromarray(PIXELS).save(path, "PNG"), "trigger", "--trigger picture.pt"),
    "study.txt": (plain(STUDY), "study", "distrust run study.txt --dry-run"),
    "method.txt": (plain(METHOD), "method", "--plugin method.txt"),
    "names.pt": (plain("cat\ndog\n"), None, "damaged"),
    "names.txt": (plain("cat\ndog\n"), "text", "--classes names.txt"),
    "config.pt": (plain('{"hidden": 3}'), "json", "nothing"),
    "page.safetensors": (plain("<!DOCTYPE html>"), None, "is a web page"),
    "pointer.npz": (plain("version https://git-lfs.github.com/spec/v1\n"), None, "git lfs pull"),
    "old.txt": (lambda path: path.write_bytes(pickle.dumps([1, 2], 0)), None, "damaged"),
    "empty.pt": (plain(""), None, "is empty"),
    "index.json": (plain('{"metadata": {}, "weight_map": {"a": "b"}}'), None, "several files"),
    "packed.pt": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(30)), None, "gunzip"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_is_told_by_its_content(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, kind, words = CONTENT[name]
    write(tmp_path / name)
    if kind is None:
        with pytest.raises(BadInput, match=words):
            check(name)
        return
    said = check(name)
    assert said["is"] == kind and words in said["next"] and said["text"]


def test_a_record_under_another_name_is_a_trigger(tmp_path):
    Backdoor(triggers.patch("white"), 2).save(tmp_path / "mine").rename(tmp_path / "mine.dat")
    assert check(tmp_path / "mine.dat")["target"] == 2


def test_what_stands_beside_a_set_is_named(tmp_path):
    torch.save({"images": X, "labels": Y, "net": WEIGHTS}, tmp_path / "both.pt")
    said = check(tmp_path / "both.pt")
    assert said["is"] == "synthetic set" and f"weights beside it: net ({len(WEIGHTS)} tensors)" in said["text"]


def test_weights_by_epoch_are_all_named_and_an_optimiser_is_none(tmp_path):
    optimiser = torch.optim.Adam(NET.parameters())
    optimiser.step(lambda: sum(p.sum() for p in NET.parameters()).backward())
    torch.save({10: WEIGHTS, 20: WEIGHTS, "o": optimiser.state_dict()}, tmp_path / "epochs.pt")
    assert [one["path"] for one in check(tmp_path / "epochs.pt")["sets"]] == ["10", "20"]


def test_a_folder_of_weights_says_which_file_to_look_at(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(model_bytes(NET, {}))
    said = check(tmp_path / "model")
    assert said["is"] == "folder" and said["next"] == f"distrust check {tmp_path}/model/model.safetensors"


def test_names_alone_make_no_quantised_model(tmp_path):
    torch.save({"attention.W_q": torch.ones(3, 3), "conv.weight_scale": torch.ones(3)}, tmp_path / "float.pt")
    assert "quantised" not in check(tmp_path / "float.pt")["text"]


def test_what_contains_itself_or_one_thing_often_ends(tmp_path):
    loop: list = [WEIGHTS]
    loop.append(loop)
    often: list = [0]
    for _ in range(9):
        often = [often] * 50  # 50⁹ ways to the zero
    torch.save({"loop": loop, "often": often, "state_dict": WEIGHTS}, tmp_path / "loop.pt")
    assert [one.path for one in weights_in(tmp_path / "loop.pt")] == ["loop.0", "state_dict"]


# quantised models


def dynamic():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}).state_dict()


def static():
    network = nn.Sequential(torch.ao.quantization.QuantStub(), nn.Conv2d(3, 4, 3)).eval()
    network.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(network)
    prepared(X)
    return torch.ao.quantization.convert(prepared).state_dict()


QUANTISED = {
    "dynamic": dynamic,
    "static": static,
    "nested": lambda: {"state_dict": dynamic()},
    "int8": lambda: {"fc.weight": torch.ones(3, 4, dtype=torch.int8), "fc.SCB": torch.ones(3)},
    "4 bits": lambda: {"fc.weight": torch.ones(6, 1, dtype=torch.uint8), "fc.weight.absmax": torch.ones(1)},
    "gptq": lambda: {f"fc.{part}": torch.ones(3, 4, dtype=torch.int32) for part in ("qweight", "qzeros")},
    "scaled": lambda: {"fc.weight": torch.ones(3, 4).to(torch.float8_e4m3fn), "fc.weight_scale": torch.ones(1)},
}


@pytest.mark.filterwarnings("ignore")  # torch's own, that its quantisation will move
@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_model_is_called_one(name, tmp_path):
    torch.save(QUANTISED[name](), file := tmp_path / "small.pt")
    said = check(file)
    assert said["is"] == "weights" and "; quantised (" in said["text"] and "float weights" in said["next"]
    with pytest.raises(BadInput, match=r"is a quantised model \(.*Ask for the float weights, or dequantise it"):
        fitted(make_model("resnet8", classes=3, size=8), weights_in(file), file)


# metadata of the wrong shape, and damage

DEEP = "[" * 100_000
SPEC = {"name": "resnet8", "classes": 3, "channels": 3, "size": 8}
METADATA = [
    "", "{", "[1, 2]", "7", "null", DEEP, '{"spec": "resnet8"}', '{"spec": []}', '{"taint": 3}', '{"taint": "badnets"}',
    '{"set": ["x"]}', '{"set": "x"}', '{"set": "x", "classes": 3}', '{"set": "x", "training": []}',
    json.dumps({"spec": {**SPEC, "classes": "three"}}), json.dumps({"spec": {**SPEC, "classes": 10**12}}),
    json.dumps({"spec": {**SPEC, "unknown": 1}}), json.dumps({"spec": {**SPEC, "size": [8]}}),
    json.dumps({"spec": {**SPEC, "normalize": 0.5}}), json.dumps({"spec": {"classes": 3}}),
    json.dumps({"spec": {"kind": "linear"}}),
]  # fmt: skip


@pytest.mark.parametrize("text", METADATA, ids=lambda text: text[:40])
def test_metadata_of_another_shape_is_a_strangers(text, tmp_path):
    save_file(WEIGHTS, file := tmp_path / "model.safetensors", {"distrust": text})
    if '"set": "x"' in text and not {"classes", "training"} & {*json.loads(text)}:
        with pytest.raises(BadInput, match="is a damaged set"):
            check(file)
        return
    said = check(file)
    assert said["is"] == "weights" and said["taint"] == []
    with pytest.raises(BadInput, match="does not say which model it is"):
        load(file)
    assert load(file, model="resnet8", classes=3, size=8).fc.weight.equal(WEIGHTS["fc.weight"])


def test_what_is_ours_is_believed(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(model_bytes(NET, {"taint": ["badnets"], "more": {"a": 1}}))
    assert read_record(file) == {"spec": NET.spec, "taint": ["badnets"], "more": {"a": 1}}
    file.rename(tmp_path / "model.dat")
    assert "TAINTED by badnets" in check(tmp_path / "model.dat")["text"]


def test_an_archive_that_was_packed_again_gives_its_weights(tmp_path):
    torch.save(WEIGHTS, tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (found,) = weights_in(tmp_path / "packed.pt")
    assert all(torch.equal(found.tensors[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("ending", ["pt", "safetensors", "npz", "npy", "json", "png"])
def test_damage_ends_in_one_of_our_errors(ending, tmp_path):
    """Whatever is looked for in a damaged file: nothing, or an error that says what is wrong."""
    whole = tmp_path / f"whole.{ending}"
    write = {
        "pt": saved({"data": [[X, Y]], "pattern": X[0], "mask": MASK, "net": {"w": X[0]}}),
        "safetensors": lambda path: save_set(images("digits", size=8)[0][:4].replace(y=Y[:4]), path),
        "npz": zipped(images=X, labels=Y, pattern=X[0]), "npy": lambda path: np.save(path, PIXELS),
        "json": lambda path: Backdoor(triggers.patch(), 1).save(path),
        "png": lambda path: Image.fromarray(PIXELS).save(path),
    }[ending]  # fmt: skip
    write(whole)
    data, noise, file = whole.read_bytes(), np.random.default_rng(0), tmp_path / f"file.{ending}"
    for case in range(50):
        spoilt = bytearray(data)
        for at in noise.integers(0, min(len(data), 400) if case % 2 else len(data), 1 + case % 4):
            spoilt[at if case % 4 else -1 - at] ^= 1 << noise.integers(8)
        file.write_bytes([spoilt, spoilt[: noise.integers(len(data))], spoilt + noise.bytes(40)][case % 3])
        for look in (check, weights_in, triggered):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    look(file)
                except (BadInput, UnsafeFile, LookupError) as error:
                    assert str(error).count("\n") == 0 and type(error).__module__ == "distrust.errors", repr(error)


def triggered(file):
    from distrust.measurement import make_trigger

    return make_trigger(str(file))(X)


# large files are looked at by their headers


def test_of_a_large_file_only_the_header_is_read(tmp_path):
    """Sparse files of 4 GB, which no memory here would take twice."""
    size = 2**32
    head = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + size)
    assert check(tmp_path / "large.safetensors")["numbers"] == 2**30
    np.save(tmp_path / "small.npy", np.zeros((4, 2, 2, 3), np.uint8))
    start = bytearray((tmp_path / "small.npy").read_bytes()[:-48])
    start = start.replace(b"(4, 2, 2, 3), }" + b" " * 8, f"({size // 12}, 2, 2, 3), }}".encode().ljust(23))
    (tmp_path / "large.npy").write_bytes(start)
    os.truncate(tmp_path / "large.npy", len(start) + size // 12 * 12)
    assert opened(tmp_path / "large.npy", held=False).shape == (size // 12, 2, 2, 3)


def test_unsafe_is_the_same_word_wherever_a_file_is_asked_for(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"net": WEIGHTS, "more": Evil()}, file := tmp_path / "evil.pt")
    said = []
    for look in (check, lambda f: open_suspect(f, "digits", model="resnet8"), triggered):
        with pytest.raises(UnsafeFile) as error:
            look(file)
        said.append(str(error.value))
    assert len(set(said)) == 1 and "print" in said[0]
