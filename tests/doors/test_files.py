"""Files that are no weights, or more than weights: each is called by its name, and nothing in it is run."""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from .bring import JUDGED, caught, kept, refused


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def packed(name, *members):
    with zipfile.ZipFile(name, "w") as archive:
        for member in members:
            archive.writestr(member, b"{}")


def legacy(name):
    with Path(name).open("wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for member in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(member))


def cut(name):
    kept({"weight": torch.zeros(64, 64)}, name)
    Path(name).write_bytes(Path(name).read_bytes()[:-300])


KINDS = {  # file → how it comes to be, what it is called
    "old.pth": (legacy, ["torch wrote before version 0.2", "save it again"]),
    "keras.h5": (lambda name: Path(name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), ["HDF5", "Keras"]),
    "pointer.pt": (
        lambda name: Path(name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ["Git LFS pointer", "git lfs pull"],
    ),
    "page.pth": (lambda name: Path(name).write_text("<!DOCTYPE html>\n<html>"), ["a web page", "Download"]),
    "page.pt": (lambda name: Path(name).write_text("\n\n<html>"), ["a web page", "Download"]),
    "config.pt": (lambda name: Path(name).write_text('{"model_type": "vit"}'), ["JSON"]),
    "llm.gguf": (lambda name: Path(name).write_bytes(b"GGUF" + bytes(64)), ["GGUF", "quantised"]),
    "graph.onnx": (lambda name: Path(name).write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(64)), ["ONNX"]),
    "nothing.pt": (lambda name: Path(name).write_bytes(b""), ["is empty"]),
    "cut.pt": (cut, ["damaged, or no checkpoint", "Download it again"]),
    "cut.safetensors": (lambda name: Path(name).write_bytes(bytes(4)), ["is damaged, or no checkpoint"]),
    "noise.pt": (lambda name: Path(name).write_bytes(bytes(range(256)) * 4), ["damaged, or no checkpoint"]),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_file_of_weights_is_called_what_it_is(name, distrust):
    make, words = KINDS[name]
    make(name)
    refused(distrust("measure", "--weights", name, *JUDGED), name, *words)


@pytest.mark.parametrize("name", KINDS)
def test_check_calls_it_the_same(name, distrust):
    make, words = KINDS[name]
    make(name)
    said = distrust("check", name)
    if name == "config.pt":  # which is no damage
        assert said.code == 0 and "JSON with model_type; no trigger" in said.out
    else:
        refused(said, name, *words)


def test_a_file_that_is_not_there_is_another_error_than_a_damaged_one(distrust):
    assert refused(distrust("measure", "--weights", "no.pt", *JUDGED), "no weights file no.pt").startswith("NotFound")


UNSAFE = {  # a file that would run something → what it asks for
    "a command": (lambda name: torch.save({"state_dict": Evil()}, name), "system"),
    "a command in a plain pickle": (lambda name: Path(name).write_bytes(pickle.dumps(Evil())), "system"),
    "a whole model": (lambda name: torch.save(nn.Linear(2, 2), name), "torch.nn.modules.linear.Linear"),
    "a class of somebody's own": (lambda name: torch.save({"config": Config()}, name), "Config"),
    "TorchScript": (lambda name: torch.jit.script(nn.Linear(2, 2)).save(name), "a TorchScript archive"),
}


class Config:
    """Plain to its owner."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("situation", UNSAFE)
def test_unsafe_is_another_word_than_unreadable(situation, distrust):
    make, asked = UNSAFE[situation]
    make("suspect.pt")
    message = refused(distrust("measure", "--weights", "suspect.pt", *JUDGED), "Not loaded", asked)
    assert message.startswith("UnsafeFile: suspect.pt")
    said = distrust("check", "suspect.pt", "--json")
    assert said.code == 1 and said.facts["safe"] is False and asked in said.facts["reason"]
    assert not Path("pwned").exists()


def test_what_an_unsafe_file_is_told_to_be_saved_as_opens(backdoored, distrust):
    torch.save(nn.Linear(2, 2), "whole.pt")
    message = refused(distrust("measure", "--weights", "whole.pt", *JUDGED), "torch.save(model.state_dict(), …)")
    assert ".safetensors" in message
    for name in ("again.pt", "again.safetensors"):
        caught(distrust("measure", "--weights", kept(backdoored, name), *JUDGED, "--json"))


def test_a_checkpoint_that_contains_itself_ends(backdoored, distrust):
    loop = {"state_dict": backdoored}
    loop["trainer"] = {"model": loop}
    kept(loop, "loop.pt")
    caught(distrust("measure", "--weights", "loop.pt", *JUDGED, "--json"))
    assert distrust("check", "loop.pt").code == 0
