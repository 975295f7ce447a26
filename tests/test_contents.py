"""Images are known by what is in their files: replaced files are other images, whatever they are called."""

import os
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from tests.study_fixture import BUDGET, plan, two_classes

import distrust
from distrust.data.sources import contents as module
from distrust.data.sources.contents import contents
from distrust.study import Store, run, score_cells
from distrust.study.calls import KNOWN, contents_of


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A set that is called by its name, and the folder in which it lies."""
    monkeypatch.setenv("DISTRUST_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))
    return two_classes(tmp_path / "sets" / "pairs")


def keys():
    return {*plan(images=["pairs"], teacher=["wrn10-1"], budgets={"cpu": {**BUDGET, "train": 16}}).stages}


def test_a_replaced_file_behind_a_name_is_another_set(pairs):
    before = keys()
    shutil.copy(pairs / "train" / "left" / "3.png", pairs / "train" / "right" / "5.png")
    assert keys().isdisjoint(before)


def test_the_same_bytes_are_the_same_set_wherever_and_whenever_they_were_written(pairs, tmp_path, monkeypatch):
    before = keys()
    moved = tmp_path / "elsewhere" / "pairs"
    shutil.copytree(pairs, moved)
    os.utime(moved / "train" / "left" / "3.png", (1, 1))
    monkeypatch.setenv("DISTRUST_DATA", str(moved.parent))
    assert keys() == before


def test_a_replaced_file_is_noticed_though_size_and_time_are_those_of_the_old(pairs):
    file, before = pairs / "train" / "left" / "3.png", contents("pairs")
    old, data = file.stat(), bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert file.stat().st_size == old.st_size and contents("pairs") != before


def test_files_are_read_once(pairs, monkeypatch):
    found = contents("pairs")
    monkeypatch.setattr(module, "_sum", lambda file: pytest.fail(f"{file} is read again"))
    assert contents("pairs") == found


def test_one_process_opens_what_is_there_now(pairs, tmp_path):
    store = Store(tmp_path / "store")

    def answers():
        made = plan(images=["pairs"], budgets={"cpu": {**BUDGET, "train": 16}})
        (cell,) = score_cells(made, store, run(made, store))
        return store.tensors(cell["keys"]["predict"], "tensors.safetensors")["y"]

    before = answers()
    shutil.rmtree(pairs / "test" / "left")
    shutil.copytree(pairs / "test" / "right", pairs / "test" / "left")
    for i in range(20):
        (pairs / "test" / "left" / f"{i}.png").unlink()
    after = answers()
    assert len(before) == 40 and len(after) == 28
    assert not torch.equal(before, after)


def test_bundled_images_and_those_that_are_not_here_have_none(pairs):
    assert contents("digits") is None and contents("nowhere") is None and contents_of("digits") == {}


@pytest.mark.parametrize("name", KNOWN)
def test_committed_results_were_made_from_these_files(name):
    root = os.environ.get("DISTRUST_DATA")
    if not root or not os.path.exists(os.path.join(root, name)):
        pytest.skip("DISTRUST_DATA names no folder that holds the public sets")
    assert contents_of(name) == {}


def test_a_name_that_means_other_files_here_says_so(pairs):
    pairs.rename(pairs.with_name("cifar10"))
    assert contents_of("cifar10") == {"contents": contents("cifar10")[:16]}


def test_a_hub_set_is_known_by_its_commit_and_by_the_last_one_if_the_hub_is_silent(pairs, monkeypatch):
    said = {"main": "a" * 40, "v2": "b" * 40}
    asked = []

    def info(api, name, revision=None, timeout=None):
        asked.append(name)
        return SimpleNamespace(sha=said[revision or "main"])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    assert (contents("hub:a/b"), contents("hub:a/b@v2")) == ("a" * 40, "b" * 40)
    said["main"] = "c" * 40
    assert contents("hub:a/b") == "c" * 40
    said.clear()  # now every question is an error
    assert (contents("hub:a/b"), contents("hub:a/new")) == ("c" * 40, None)
    assert asked == ["a/b"] * 4 + ["a/new"]


def test_a_cell_says_which_version_made_it(tmp_path):
    made, store = plan(budgets={"cpu": {**BUDGET, "train": 16}}), Store(tmp_path)
    (cell,) = score_cells(made, store, run(made, store))
    assert cell["env"]["distrust"] == distrust.__version__
