from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from distrust.errors import NotFound, Notice, StoreError
from distrust.study.codecs import pack
from distrust.study.records import Damaged
from distrust.study.store import FORMAT, SIGN, Store

A, B = "a" * 32, "ab" * 16


def row(state="done", **more):
    """A record with all that every record has."""
    return {
        "state": state, "kind": "teacher", "label": "a teacher", "recipe": {"method": "teacher", "options": {}},
        "parents": [], "flags": [], "seconds": 0.5, **more,
    }  # fmt: skip


def told(store, key):
    """A record without what the store adds."""
    return {name: value for name, value in store.record(key).items() if name not in ("key", "files")}


@pytest.fixture
def store(url):
    return Store(url)


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

        def pipe(path, data, **options):
            count.append(path)
            if len(count) <= at:
                return piped(path, data, **options)
            if on == "write":
                piped(path, data[:3], **options)
            raise OSError(code, os.strerror(code))

        if store.local:
            monkeypatch.setattr(store.fs, "open", open_)
        else:
            piped = store.fs.pipe_file
            monkeypatch.setattr(store.fs, "pipe_file", pipe)

    yield put
    monkeypatch.undo()


def test_a_stage_is_there_once_it_is_saved(store):
    assert store.record(A) is None and store.keys() == []
    tensors = {"y": torch.arange(3), "clean": torch.tensor([1, 2], dtype=torch.uint8)}
    assert store.save(A, row(), {"predictions.safetensors": pack(tensors)}) == store.record(A)
    assert told(store, A) == row() and store.keys() == [A]
    found = store.tensors(A, "predictions.safetensors")
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in tensors)
    file = store.record(A)["files"]["predictions.safetensors"]["file"]
    assert names(store) == sorted([f"{A}/{file}", f"{A}/stage.json"])
    assert file.endswith("predictions.safetensors") and (not store.local or file == "predictions.safetensors")


def test_what_is_done_stays_and_the_second_writer_is_told_so(store):
    first = store.save(A, row(seconds=1.0), {"model.safetensors": b"1"})
    before = {path: store.fs.cat_file(path) for path in store.fs.find(store.root)}
    for again in (row(seconds=2.0), row("failed", error="no"), row("skipped", error="Skip: no")):
        assert store.save(A, again, {"model.safetensors": b"2"}) == first
    assert {path: store.fs.cat_file(path) for path in store.fs.find(store.root)} == before
    assert store.save(A, row("failed", error="no"), replace=True) == first, "and to nothing less does it give way"


@pytest.mark.parametrize("before", ["done", "failed", "skipped"])
def test_a_stage_that_is_replaced_is_whole_at_every_moment(store, before, monkeypatch):
    old = store.save(A, row(before, error="no"), {"model.safetensors": b"1", "old": b""})
    write, seen = type(store.place).put, []

    def spy(self, path, data):
        write(self, path, data)
        seen.append(Store(store.url).load(A))

    for name in ("put", "write") if not store.local else ("put",):
        monkeypatch.setattr(type(store.place), name, spy)
    new = store.save(A, row(seconds=2.0), {"model.safetensors": b"2"}, replace=before == "done")
    assert seen[0] == (old, {"model.safetensors": b"1", "old": b""}) and len(seen) >= 2
    assert all(record in (old, new) for record, _ in seen)
    assert store.load(A) == (new, {"model.safetensors": b"2"}) and new["seconds"] == 2.0


def test_a_reader_of_what_is_replaced_meanwhile_reads_the_new(store, monkeypatch):
    store.save(A, row(), {"model.safetensors": b"1"})
    cat, once = store.fs.cat_file, []

    def slow(path):
        if path.endswith("model.safetensors") and not once:
            once.append(Store(store.url).save(A, row(seconds=2.0), {"model.safetensors": b"2"}, replace=True))
            store.fs.rm(path)
        return cat(path)

    monkeypatch.setattr(store.fs, "cat_file", slow)
    assert store.load(A) == (once[0], {"model.safetensors": b"2"})


def test_a_folder_without_its_record_does_not_count(store):
    store.save(A, row(), {"model.safetensors": b"1"})
    store.fs.rm(f"{store.root}/{A}/stage.json")
    assert store.keys() == []
    if store.local:
        with pytest.raises(Damaged, match="stage.json is gone"):
            store.record(A)
        with pytest.warns(Notice, match="set aside"):
            store.save(A, row(), {"model.safetensors": b"1"})
    else:  # it may be on its way
        assert store.record(A) is None
        store.save(A, row(), {"model.safetensors": b"1"})
    assert told(store, A) == row()


def test_a_stage_is_found_by_the_beginning_of_its_key(store):
    for key, n in ((A, 1), (B, 2)):
        store.save(key, row(n=n))
    assert [store.find(k)[0] for k in ("aa", B)] == [A, B] and [store.find(k)[1]["n"] for k in ("aa", B)] == [1, 2]
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
    store.save(A, row(), {"model.safetensors": b"1"})
    before = names(store)
    fail(store, at, code, on)
    with pytest.raises(StoreError, match=rf"cannot be written \({os.strerror(code)}\).*still there.*--store"):
        store.save(B, row(), {"model.safetensors": b"22222"})
    with pytest.raises(StoreError):
        store.check_writable()
    assert names(store) == before and store.keys() == [A] and store.record(B) is None


def test_redoing_a_stage_on_a_full_store_keeps_the_old_one(store, fail):
    old = store.save(A, row(), {"model.safetensors": b"1"})
    fail(store, 1, errno.ENOSPC)
    with pytest.raises(StoreError):
        store.save(A, row(seconds=2.0), {"model.safetensors": b"2"}, replace=True)
    if store.local:
        assert store.load(A) == (old, {"model.safetensors": b"1"})
        assert len([name for name in names(store) if not name.startswith(A)]) == 0, "no draft is left"
    else:  # where a write can stop halfway, that is noticed
        with pytest.raises(Damaged):
            store.load(A)


def test_a_process_that_dies_while_writing_leaves_no_stage(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.check_writable()
    monkeypatch.setattr(store, "_sweep", lambda draft: None)  # the dead do not clean up

    def die(*paths):
        raise OSError("killed")

    monkeypatch.setattr(os, "rename", die)
    with pytest.raises(StoreError):
        store.save(A, row(), {"model.safetensors": b"1"})
    monkeypatch.undo()
    (draft,) = {*os.listdir(tmp_path)} - {SIGN}
    assert store.keys() == [] and store.record(A) is None
    store.save(A, row())
    assert store.keys() == [A]
    store.check_writable()
    assert (tmp_path / draft).exists(), "its writer lives: it is this process"
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    gone = draft.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    (tmp_path / draft).rename(tmp_path / gone)
    for name in (f".{B}-01234567", f".{B}-01234567-{dead.pid}-01234567"):  # of an earlier version, of another machine
        (tmp_path / name).mkdir()
    store.check_writable()
    assert not (tmp_path / gone).exists() and len(os.listdir(tmp_path)) == 4
    for old in tmp_path.glob(".a*-0123*"):
        os.utime(old, (0, 0))
    store.check_writable()
    assert sorted(os.listdir(tmp_path)) == [SIGN, A]


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "store").write_text("precious")
    for url in (tmp_path / "store", tmp_path / "store" / "below"):
        store = Store(url)
        assert store.record(A) is None and store.keys() == []
        with pytest.raises(StoreError, match="cannot be written"):
            store.check_writable()
        with pytest.raises(StoreError, match="cannot be read .Not a directory.. Give another --store"):
            store.status()
    assert (tmp_path / "store").read_text() == "precious"


def test_a_slash_at_the_end_makes_no_difference(url):
    Store(url).save(A, row())
    assert Store(f"{url}/").keys() == [A] and Store(f"{url}/").record(A) == Store(url).record(A)


@pytest.mark.parametrize("url", ["nothing://here", "s3fs-is-not-a-protocol://x"])
def test_an_unknown_kind_of_address_is_refused(url):
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(url)


# stores of other versions


def older(store, sign=None):
    """A store as an earlier version left it: folders by key and no sign; or with another one."""
    store.fs.makedirs(f"{store.root}/{A}")
    store.fs.pipe_file(f"{store.root}/{A}/stage.json", json.dumps(row(), indent=1).encode())
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
    "save": lambda store: store.save(B, row(), {"model.safetensors": b"2"}),
    "save over": lambda store: store.save(A, row(), {"model.safetensors": b"2"}),
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
    again.save(A, row())
    assert told(Store(store.url), A) == row()
    assert store.fs.cat_file(f"{store.root}/{SIGN}").decode().strip() == str(FORMAT)


def test_a_store_whose_first_save_failed_is_still_of_this_version(store, fail):
    fail(store, 0, errno.ENOSPC)
    with pytest.raises(StoreError, match="cannot be written"):
        store.save(A, row(), {"model.safetensors": b"1"})
    assert Store(store.url).keys() == []
