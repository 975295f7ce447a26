"""Which weights a file holds, and which of them a network takes: habits of saving that people bring."""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distrust.door import at_key, fitted, weights_in
from distrust.errors import BadInput, NotFound, UnsafeFile
from distrust.models import model as make_model
from distrust.seeds import rng


def net(seed=0, **shape):
    return make_model("resnet8", **{"classes": 3, "size": 8, **shape}, rng=rng(seed))


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


CLEAN, OTHER = net(0).state_dict(), net(1).state_dict()
HEAD = {"projector.weight": torch.zeros(4, 4)}
QUEUE = {"module.queue": torch.zeros(8, 4), "module.queue_ptr": torch.zeros(1)}
TAKEN = {  # what a file holds → the path of what is taken
    "plain": (CLEAN, ""),
    "nested": (
        {"state_dict": CLEAN, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        "state_dict",
    ),
    "unusual nest": ({"anything": {"at all": CLEAN}}, "anything.at all"),
    "data parallel": (under("module.", CLEAN), ""),
    "twice": (under("module.module.", CLEAN), ""),
    "compiled": (under("_orig_mod.", CLEAN), ""),
    "compiled, then parallel": (under("module._orig_mod.", CLEAN), ""),
    "compiled inside": ({k.replace("fc.", "fc._orig_mod."): v for k, v in CLEAN.items()}, ""),
    "averaged": ({"n_averaged": torch.tensor(4), **under("module.", CLEAN)}, ""),
    "lightning": ({"state_dict": under("model.", CLEAN), "loops": {"a": [1]}}, "state_dict.model"),
    "with a projector": ({"state_dict": under("backbone.", CLEAN) | HEAD}, "state_dict.backbone"),
    "with a queue": (under("module.encoder_q.", CLEAN) | QUEUE, "encoder_q"),
    "twice the same": (under("module.model.", CLEAN) | under("module.attacker.model.", CLEAN), "model"),
    "a number among them": ({**CLEAN, "step": 3, "_extra_state": None}, ""),
    "a list": ([{"loss": 0.5}, CLEAN], "1"),
    "half precision": ({k: v.half() if v.is_floating_point() else v for k, v in CLEAN.items()}, ""),
}


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_people_save_is_taken_whatever_is_put_around_it(name, ending, tmp_path):
    content, path = TAKEN[name]
    file = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        if not all(isinstance(value, torch.Tensor) for value in getattr(content, "values", lambda: [0])()):
            return  # only a flat mapping is one
        save_file({k: v.clone() for k, v in content.items()}, file)
    else:
        torch.save(content, file)
    network = net(2)
    assert fitted(network, weights_in(file), file).path == path
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, CLEAN[key], rtol=1e-3, atol=1e-3)


SEVERAL = {  # what a file holds → the keys that choose
    "timm": ({"state_dict": CLEAN, "state_dict_ema": OTHER}, ["state_dict", "state_dict_ema"]),
    "lightly": ({"net": CLEAN, "ema_state_dict": under("module.", OTHER)}, ["net", "ema_state_dict"]),
    "moco": (under("module.encoder_q.", CLEAN) | under("module.encoder_k.", OTHER), ["encoder_q", "encoder_k"]),
    "a list": ({"state_dict": [CLEAN, OTHER]}, ["state_dict.0", "state_dict.1"]),
    "a pair": ({"G": CLEAN, "D": OTHER}, ["G", "D"]),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_sets_that_fit_none_is_judged_unless_it_is_chosen(name, tmp_path):
    content, keys = SEVERAL[name]
    torch.save(content, file := tmp_path / "weights.pt")
    found = weights_in(file)
    with pytest.raises(BadInput, match="holds 2 sets of weights that fit and differ") as refusal:
        fitted(net(2), found, file)
    for key, wanted in zip(keys, (CLEAN, OTHER), strict=True):
        assert key in str(refusal.value)
        fitted(network := net(2), found, file, key=key)
        assert all(torch.equal(value, wanted[k]) for k, value in network.state_dict().items())
    assert str(refusal.value).endswith(f"--key {keys[0]}.")


def test_what_several_sets_seem_to_be_is_said(tmp_path):
    torch.save({"model": CLEAN, "model_ema": OTHER}, file := tmp_path / "weights.pt")
    assert [str(one) for one in weights_in(file)] == [
        f"model ({len(CLEAN)} tensors)",
        f"model_ema ({len(CLEAN)} tensors, averaged)",
    ]


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_key_that_is_not_there_is_refused_whatever_the_file(ending, tmp_path):
    file = tmp_path / f"weights{ending}"
    save_file(CLEAN, file) if ending == ".safetensors" else torch.save(CLEAN, file)
    with pytest.raises(NotFound, match="no key in .* 'no_such_key'"):
        fitted(net(), weights_in(file), file, key="no_such_key")


def test_a_key_is_shown_with_its_whole_path(tmp_path):
    torch.save({"model": {"encoder": under("net.", CLEAN)}}, file := tmp_path / "weights.pt")
    found = weights_in(file)
    with pytest.raises(NotFound, match="model.encoder"):
        at_key(found, "encoder", file)
    assert len(at_key(found, "model.encoder.net", file)[0].tensors) == len(CLEAN)


@pytest.mark.parametrize("names", [("mu", "sigma"), ("normalizer.new_mean", "normalizer.new_std"), ("mean", "std")])
def test_statistics_beside_the_weights_are_asked_for(names, tmp_path):
    beside = dict(zip(names, (torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])), strict=True))
    torch.save({**CLEAN, **beside}, file := tmp_path / "weights.pt")
    with pytest.raises(
        BadInput, match=r"Type --mean 0.5,0.4,0.3 --std 0.2,0.25,0.3; if .* --mean 0,0,0 --std 1,1,1\.$"
    ):
        fitted(net(), weights_in(file), file, normalized=False)
    fitted(network := net(2), weights_in(file), file)
    assert torch.equal(network.state_dict()["fc.weight"], CLEAN["fc.weight"])


def test_another_number_of_classes_is_said_in_these_words(tmp_path):
    torch.save(net(classes=1000).state_dict(), file := tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="has 1,000 classes, the images 3"):
        fitted(net(), weights_in(file), file)


def test_numbers_that_are_no_weights_are_refused(tmp_path):
    whole = {k: (v * 100).to(torch.int8) if v.is_floating_point() else v for k, v in CLEAN.items()}
    torch.save(whole, file := tmp_path / "int8.pt")
    with pytest.raises(BadInput, match="whole numbers"):
        fitted(net(), weights_in(file), file)


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_quantised_weights_are_told_apart(tmp_path):
    few = {k: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8) if k == "fc.weight" else v for k, v in CLEAN.items()}
    torch.save(few, file := tmp_path / "quantised.pt")
    with pytest.raises(BadInput, match="quantised"):
        fitted(net(), weights_in(file), file)


def test_what_contains_itself_ends(tmp_path):
    loop = {"state_dict": CLEAN}
    loop["again"] = loop
    torch.save(loop, file := tmp_path / "weights.pt")
    assert [one.path for one in weights_in(file)] == ["state_dict"]


def test_another_architecture_says_what_differs(tmp_path):
    torch.save(make_model("resnet20", classes=3, size=8).state_dict(), file := tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="is not a resnet8: .* unexpected"):
        fitted(net(), weights_in(file), file)


# what is no file of weights, and what is one beside harmless things


def test_plain_data_beside_the_weights_is_read(tmp_path):
    arguments = argparse.Namespace(lr=0.1, out=Path("runs") / "a", names=["x"])
    beside = {"best": np.float64(0.91), "count": np.int64(3), "history": np.arange(3.0), "args": arguments}
    torch.save({"state_dict": CLEAN, **beside}, file := tmp_path / "weights.pt")
    assert [one.path for one in weights_in(file)] == ["state_dict"]


BEGINNINGS = {
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n",
    "web page": b"\n<!DOCTYPE html><html></html>",
    "Keras": b"\x89HDF\r\n\x1a\n" + bytes(600),
    "GGUF": b"GGUF" + bytes(600),
    "ONNX": b"\x08\x07\x12\x07pytorch\x1a\x051.9" + bytes(64),
    "JSON": b'{"a": 1}',
    "damaged": b"\x80\x02 nothing",
}


@pytest.mark.parametrize("word", BEGINNINGS)
def test_what_is_no_checkpoint_is_called_what_it_is(word, tmp_path):
    (file := tmp_path / "weights.pt").write_bytes(BEGINNINGS[word])
    with pytest.raises(BadInput, match=word):
        weights_in(file)


def test_an_archive_of_old_is_called_so(tmp_path):
    with tarfile.open(file := tmp_path / "legacy.pth", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(BadInput, match=r"before version 0\.2"):
        weights_in(file)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_is_not_opened_and_called_one(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file := tmp_path / "script.pt"))
    with pytest.raises(UnsafeFile, match="a TorchScript archive"):
        weights_in(file)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    spoilt = {k: v.clone() for k, v in CLEAN.items()}
    spoilt["fc.weight"][0, 0] = float("nan")
    torch.save(spoilt, file := tmp_path / "nan.pt")
    with pytest.raises(BadInput, match=r"fc\.weight holds values that are not finite"):
        fitted(net(), weights_in(file), file)
