from __future__ import annotations

import errno
import os
import uuid

import fsspec
import pytest
import torch

from distrust.errors import NotFound, StoreError
from distrust.study.codecs import pack
from distrust.study.store import FORMAT, SIGN, Store

A, B = "a" * 32, "ab" * 16


@pytest.fixture(params=["directory", "memory"])
def store(request, tmp_path):
    if request.param == "directory":
        yield Store(tmp_path / "deep" / "store")
        return
    name = f"memory://{uuid.uuid4().hex}"
    yield Store(name)
    fsspec.filesystem("memory").store.clear()


def names(store):
    """Everything under the store but the sign of its format."""
    found = (path.removeprefix(store.root).strip("/") for path in store.fs.find(store.root))
    return sorted(name for name in found if name != SIGN)


class Broken:
    """A file that takes a few bytes, then no more."""

    def __init__(self, file, code):
        self.file, self.code = file, code

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[:3])
        raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def fail(monkeypatch):
    """Makes the store's n-th file (from 0) fail on opening or on writing."""

    def put(store, at, code, on="write"):
        opened, count = store.fs.open, []

        def open_(path, mode="rb", **options):
            if "w" in mode:
                count.append(path)
                if len(count) > at:
                    if on == "open":
                        raise OSError(code, os.strerror(code))
                    return Broken(opened(path, mode, **options), code)
            return opened(path, mode, **options)

        monkeypatch.setattr(store.fs, "open", open_)

    yield put
    monkeypatch.undo()


def test_a_stage_is_there_once_it_is_saved(store):
    assert store.record(A) is None and store.keys() == []
    tensors = {"y": torch.arange(3), "clean": torch.tensor([1, 2], dtype=torch.uint8)}
    store.save(A, {"state": "done"}, {"predictions.safetensors": pack(tensors)})
    assert store.record(A) == {"state": "done"} and store.keys() == [A]
    found = store.tensors(A, "predictions.safetensors")
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in tensors)
    assert names(store) == [f"{A}/predictions.safetensors", f"{A}/stage.json"]


def test_a_stage_that_is_saved_again_is_replaced_whole(store):
    store.save(A, {"state": "done", "try": 1}, {"model.safetensors": b"1", "old": b""})
    store.save(A, {"state": "failed", "try": 2}, {"model.safetensors": b"2"})
    assert store.record(A) == {"state": "failed", "try": 2}
    assert names(store) == [f"{A}/model.safetensors", f"{A}/stage.json"]


def test_a_folder_without_its_record_does_not_count(store):
    store.save(A, {"state": "done"}, {"model.safetensors": b"1"})
    store.fs.rm(f"{store.root}/{A}/stage.json")
    assert store.record(A) is None and store.keys() == []


def test_a_stage_is_found_by_the_beginning_of_its_key(store):
    store.save(A, {"n": 1})
    store.save(B, {"n": 2})
    assert store.find("aa") == (A, {"n": 1}) and store.find(B) == (B, {"n": 2})
    with pytest.raises(NotFound, match="begins 2 keys"):
        store.find("a")
    with pytest.raises(NotFound, match="no key"):
        store.find("c")


def test_looking_for_trouble_leaves_nothing(store):
    store.check_writable()
    assert names(store) == [] and store.keys() == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("on", ["open", "write"])
@pytest.mark.parametrize("at", [0, 1], ids=["weights", "record"])
def test_a_full_or_read_only_store_keeps_what_was_finished(store, fail, code, on, at):
    store.save(A, {"state": "done"}, {"model.safetensors": b"1"})
    before = names(store)
    fail(store, at, code, on)
    with pytest.raises(StoreError, match=rf"cannot be written \({os.strerror(code)}\).*still there.*--store"):
        store.save(B, {"state": "done"}, {"model.safetensors": b"22222"})
    with pytest.raises(StoreError):
        store.check_writable()
    assert names(store) == before and store.keys() == [A] and store.record(B) is None


def test_redoing_a_stage_on_a_full_directory_keeps_the_old_one(tmp_path, fail):
    store = Store(tmp_path)
    store.save(A, {"try": 1}, {"model.safetensors": b"1"})
    fail(store, 1, errno.ENOSPC)
    with pytest.raises(StoreError):
        store.save(A, {"try": 2}, {"model.safetensors": b"2"})
    assert store.record(A) == {"try": 1} and sorted(os.listdir(tmp_path)) == [SIGN, A]


def test_redoing_a_stage_where_nothing_can_be_renamed_never_looks_finished_halfway(fail):
    store = Store(f"memory://{uuid.uuid4().hex}")
    store.save(A, {"try": 1}, {"model.safetensors": b"1"})
    states, opened = [], store.fs.open

    def spy(path, mode="rb", **options):
        if "w" in mode:
            states.append(store.fs.exists(f"{store.root}/{A}/stage.json"))
        return opened(path, mode, **options)

    fail(store, 99, 0)
    store.fs.open = spy
    store.save(A, {"try": 2}, {"model.safetensors": b"2"})
    assert states == [False, False] and store.record(A) == {"try": 2}


def test_a_process_that_dies_while_writing_leaves_no_stage(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(store, "_sweep", lambda draft: None)  # the dead do not clean up

    def die(*paths):
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(StoreError):
        store.save(A, {"state": "done"}, {"model.safetensors": b"1"})
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 2 and store.keys() == [] and store.record(A) is None
    store.save(A, {"state": "done"})
    assert store.keys() == [A]


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "store").write_text("precious")
    for url in (tmp_path / "store", tmp_path / "store" / "below"):
        store = Store(url)
        assert store.record(A) is None and store.keys() == []
        with pytest.raises(StoreError, match="cannot be written"):
            store.check_writable()
    assert (tmp_path / "store").read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_record_says_what_to_remove(store, content):
    store.save(A, {"state": "done"})
    store.fs.pipe_file(f"{store.root}/{A}/stage.json", content)
    with pytest.raises(StoreError, match=f"{A}/stage.json cannot be read.*Remove the folder {A} and run again"):
        store.record(A)


def test_tensors_that_are_gone_or_damaged_say_what_to_remove(store):
    store.save(A, {"state": "done"}, {"model.safetensors": b"nonsense"})
    for name, words in [("model.safetensors", "cannot be read"), ("other.safetensors", "is gone")]:
        with pytest.raises(StoreError, match=f"{name} {words}.*Remove the folder {A}"):
            store.tensors(A, name)


@pytest.mark.parametrize("url", ["nothing://here", "s3fs-is-not-a-protocol://x"])
def test_an_unknown_kind_of_address_is_refused(url):
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(url)


# stores of other versions


def older(store, sign=None):
    """A store as an earlier version left it: folders by key and no sign; or with another one."""
    store.fs.makedirs(f"{store.root}/{A}")
    store.fs.pipe_file(f"{store.root}/{A}/stage.json", b'{"state": "done", "kind": "teacher"}')
    store.fs.pipe_file(f"{store.root}/{A}/model.safetensors", b"1")
    if sign:
        store.fs.pipe_file(f"{store.root}/{SIGN}", sign)
    return Store(store.url)


USES = {
    "record": lambda store: store.record(A),
    "record of another": lambda store: store.record(B),
    "keys": Store.keys,
    "find": lambda store: store.find("a"),
    "check_writable": Store.check_writable,
    "save": lambda store: store.save(B, {"state": "done"}, {"model.safetensors": b"2"}),
    "save over": lambda store: store.save(A, {"state": "done"}, {"model.safetensors": b"2"}),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("sign, said", [(None, "format 1"), (b"1\n", "format 1"), (b"99\n", "format 99")])
def test_a_store_of_another_version_is_named_and_nothing_of_it_is_used(store, use, sign, said):
    old = older(store, sign)
    before = {path: store.fs.cat_file(path) for path in store.fs.find(store.root)}
    with pytest.raises(
        StoreError,
        match=rf"^store \S+ was made by another version of Distrust \({said}, not {FORMAT}\).*--store \S+-{FORMAT}\.$",
    ):
        USES[use](old)
    assert {path: store.fs.cat_file(path) for path in store.fs.find(store.root)} == before, "left as it was"


def test_the_place_that_the_error_names_is_a_store_of_its_own(tmp_path):
    older(Store(tmp_path / "runs"))
    for url in (f"{tmp_path}/runs", f"{tmp_path}/runs/"):
        with pytest.raises(StoreError) as said:
            Store(url).check_writable()
        other = str(said.value).rpartition("--store ")[2].removesuffix(".")
        assert other == f"{tmp_path}/runs-{FORMAT}"
        Store(other).check_writable()
        assert Store(other).keys() == []


def test_a_fresh_and_an_empty_store_are_told_from_an_old_one(store):
    assert store.keys() == [] and store.record(A) is None
    assert not store.fs.exists(store.root), "looking makes nothing"
    store.fs.makedirs(f"{store.root}/pictures")
    store.fs.pipe_file(f"{store.root}/README", b"results go here")
    store.fs.makedirs(f"{store.root}/.{A}-01234567")
    store.fs.pipe_file(f"{store.root}/.{A}-01234567/stage.json", b"{}")  # what a killed run left
    again = Store(store.url)
    assert again.keys() == [] and again.record(A) is None
    again.save(A, {"state": "done"})
    assert Store(store.url).record(A) == {"state": "done"}
    assert store.fs.cat_file(f"{store.root}/{SIGN}").decode().strip() == str(FORMAT)


def test_a_store_whose_first_save_failed_is_still_of_this_version(store, fail):
    fail(store, 0, errno.ENOSPC)
    with pytest.raises(StoreError, match="cannot be written"):
        store.save(A, {"state": "done"}, {"model.safetensors": b"1"})
    assert Store(store.url).keys() == []
