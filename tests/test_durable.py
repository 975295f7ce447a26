"""What a store promises about data: a power cut, two writers at a time, and damage of every kind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import threading
import uuid
import warnings

import fsspec
import pytest
from tests.crash import Disk
from tests.study_fixture import plan
from tests.test_resume import as_earlier
from tests.test_store import row

from distrust.errors import Notice, StoreError
from distrust.study import Store, run, score_cells
from distrust.study.records import Damaged
from distrust.study.store import SIGN

FAULTS = int(os.environ.get("FAULTS", "40"))  # `make faults` takes more
KEYS = [f"{n:032x}" for n in range(4)]

# a power cut


def test_a_power_cut_leaves_a_stage_whole_or_absent(tmp_path, monkeypatch):
    root, draw = tmp_path / "disk", random.Random(0)
    root.mkdir()
    disk, store = Disk(root), Store(root / "deep" / "store")
    written: dict[str, list[dict[str, bytes]]] = {key: [] for key in KEYS}
    with disk.watched(monkeypatch):
        for i, key in enumerate((*KEYS, KEYS[0], KEYS[1])):
            state = "failed" if i == 1 else "done"  # the second is done again, as is the first
            files = {} if i == 1 else {name: draw.randbytes(50) for name in ("model", "trigger")}
            written[key].append(files)
            store.save(key, row(state), files, replace=i > 3)
            disk.done(f"{key} {len(written[key])}")
    assert len(disk.steps) > 100
    for step in draw.choices(range(len(disk.steps)), k=FAULTS):
        found = Store(disk.after_cut(step, draw, tmp_path / "after") / "deep" / "store")
        listed = found.keys()
        assert all(found.load(key)[1] in written[key] for key in listed), "what is listed is whole"
        for key in KEYS:
            times = max((int(mark.split()[1]) for mark in disk.finished(step) if mark.startswith(key)), default=0)
            if times:
                assert found.load(key)[1] in written[key][times - 1 :], "what is finished is there"
        found.check_writable()
        assert found.save("f" * 32, row()) == found.record("f" * 32)


def test_the_disk_of_these_tests_loses_what_is_not_synced(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    disk, store = Disk(tmp_path / "disk"), Store(tmp_path / "disk")
    with disk.watched(monkeypatch):
        monkeypatch.setattr(os, "fsync", lambda at: None)
        store.save(KEYS[0], row(), {"model": b"12345678"})
        disk.done(KEYS[0])
    draw, lost = random.Random(0), 0
    for _ in range(20):
        found = Store(disk.after_cut(len(disk.steps) - 1, draw, tmp_path / "after"))
        with contextlib.suppress(StoreError):
            found.load(KEYS[0])
            continue
        lost += 1
    assert lost > 10


# two writers


def save_again_and_again(url: str, name: str, times: int) -> None:
    """As two processes do that want the same stages; each would write something else."""
    store = Store(url)
    for i in range(times):
        written = store.save(f"{i // 5:032x}", row(label=name), {"model": name.encode() * 1000}, replace=i % 5 == 4)
        assert written["label"] in ("a", "b")


@pytest.mark.parametrize("how", ["processes", "threads"])
def test_of_two_writers_the_first_wins_and_no_reader_sees_a_gap(tmp_path, how):
    url = str(tmp_path / "store") if how == "processes" else f"memory://{uuid.uuid4().hex}"
    make = multiprocessing.get_context("spawn").Process if how == "processes" else threading.Thread
    writers = [make(target=save_again_and_again, args=(url, name, 100)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    store, seen, reads = Store(url), set[str](), 0
    while any(writer.is_alive() for writer in writers) or reads < 100:
        there = set(store.keys())
        assert seen <= there, "what was there stays"
        seen = there
        for key in sorted(seen)[-2:]:
            record, files = store.load(key)
            assert files == {"model": record["label"].encode() * 1000}
            reads += 1
    for writer in writers:
        writer.join()
        assert how == "threads" or writer.exitcode == 0
    assert len(store.keys()) == 20
    if how == "processes":
        assert sorted(os.listdir(tmp_path / "store")) == sorted([SIGN, *store.keys()]), "no drafts, nothing set aside"
    else:
        fsspec.filesystem("memory").store.clear()


# damage


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plan, the folder of its store, and its cells."""
    made, folder = plan(attack="badnets", distiller="kd"), tmp_path_factory.mktemp("finished")
    return made, folder, numbers(made, Store(folder), run(made, Store(folder)))


def numbers(made, store, outcome):
    return [{k: v for k, v in c.items() if k not in ("seconds", "env")} for c in score_cells(made, store, outcome)]


def flip(draw, file, folder):
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def cut(draw, file, folder):
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])


def lose(draw, file, folder):
    file.unlink()


def grow(draw, file, folder):
    file.write_bytes(file.read_bytes() + draw.choice([b"\0", b"\n", b"{}"]))


def take_anothers(draw, file, folder):
    others = [o for o in folder.glob(f"*/*{file.suffix}") if o.is_file() and o.read_bytes() != file.read_bytes()]
    file.write_bytes(draw.choice(sorted(others)).read_bytes())


def be_foreign(draw, file, folder):
    file.write_bytes(draw.choice([b"{}", b"null", b'{"state": "done"}', b'{"state": "done", "kind": []}', b"[1]"]))


def be_no_file(draw, file, folder):
    file.unlink()
    file.mkdir()


DAMAGES = (flip, cut, lose, grow, take_anothers, be_foreign, be_no_file)


def damaged(folder, draw, stages):
    """Damage so many stages; returns their keys."""
    keys = draw.sample(sorted(p.parent.name for p in folder.glob("*/stage.json")), stages)
    for key in keys:
        draw.choice(DAMAGES)(draw, draw.choice(sorted((folder / key).iterdir())), folder)
    return keys


@pytest.mark.parametrize("seed", range(max(FAULTS // 20, 1)))
def test_of_many_damages_all_are_noticed_and_none_is_used(finished, tmp_path, seed):
    made, whole, cells = finished
    folder, draw = shutil.copytree(whole, tmp_path / "store"), random.Random(seed)
    keys = damaged(folder, draw, 8)
    store = Store(folder)
    assert sorted(store.status(verify=True)["damaged"]) == sorted(keys)
    for key in keys:
        with pytest.raises(Damaged):
            store.load(key)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Notice)
        outcome = run(made, store)
    assert numbers(made, store, outcome) == cells
    aside = {path.name.split("-")[1] for path in folder.glob("damaged-*")}
    assert aside <= set(keys) and len(said) == len(aside) == outcome.ran and outcome.failed == 0
    assert outcome.ran + outcome.cached == len(made.stages)
    left = set(store.status(verify=True)["damaged"])
    assert left == set(keys) - aside, "of what nobody read, nothing was used"


@pytest.mark.parametrize(
    "kind, jobs", [("attack", 1), ("predict", 1), pytest.param("attack", 2, marks=pytest.mark.slow)]
)
def test_what_is_damaged_is_made_again_by_the_same_run(finished, tmp_path, kind, jobs):
    made, whole, cells = finished
    folder = shutil.copytree(whole, tmp_path / "store")
    key = next(stage.key for stage in made.cells[0].final if stage.kind == "student")
    parent = next(p.key for p in made.stages[key].parents)
    victim = parent if kind == "attack" else made.cells[0].seen["ours"][0].key
    file = next((folder / victim).glob("*.safetensors"))
    file.write_bytes(b"x") if jobs == 1 else file.unlink()
    if kind == "attack":
        shutil.rmtree(folder / key)  # so that its parent is read
    store = Store(folder)
    with pytest.warns(Notice, match=f"Stage {victim[:12]} cannot be used: .*is set aside as damaged-{victim}-"):
        outcome = run(made, store, jobs=jobs)
    assert outcome.ran == (2 if kind == "attack" else 1) and numbers(made, store, outcome) == cells
    assert len(list(folder.glob("damaged-*"))) == 1 and store.status(verify=True)["damaged"] == {}
    assert run(made, store).ran == 0


def test_who_only_looks_leaves_a_damaged_stage_where_it_is(finished, tmp_path):
    made, whole, _ = finished
    folder = shutil.copytree(whole, tmp_path / "store")
    said = made.cells[0].seen["ours"][0].key
    next((folder / said).glob("*.safetensors")).write_bytes(b"x")
    with pytest.warns(Notice, match="cannot be used.*It is left out"):
        outcome = run(made, Store(folder), mode="only-cached")
    (cell,) = score_cells(made, Store(folder), outcome)
    assert cell["state"] == "missing" and outcome.missing == 1
    assert not list(folder.glob("damaged-*")) and (folder / said).is_dir()


def test_a_stage_that_cannot_be_kept_whole_stops_the_run(finished, tmp_path, monkeypatch):
    made, whole, _ = finished
    folder = shutil.copytree(whole, tmp_path / "store")
    student = next(stage for stage in made.cells[0].final if stage.kind == "student")
    shutil.rmtree(folder / student.key)
    (teacher,) = (p.key for p in student.parents)
    load = Store.load

    def broken(self, key):
        if key == teacher:
            raise Damaged(key, "a disk that forgets")
        return load(self, key)

    monkeypatch.setattr(Store, "load", broken)
    with pytest.warns(Notice, match="a disk that forgets"), pytest.raises(Damaged, match="Run its study again"):
        run(made, Store(folder))


def test_an_earlier_versions_stage_that_cannot_be_read_is_made_again(finished, tmp_path):
    made, whole, cells = finished
    folder = shutil.copytree(whole, tmp_path / "store")
    as_earlier(folder)
    student = next(stage for stage in made.cells[0].final if stage.kind == "student")
    (teacher,) = (p.key for p in student.parents)
    shutil.rmtree(folder / student.key)
    next((folder / teacher).glob("*.safetensors")).write_bytes(b"x")
    predicted = [made.cells[0].seen[arm][0].key for arm in ("ours", "control")]
    shutil.copy(folder / predicted[0] / "stage.json", folder / predicted[1] / "stage.json")
    store = Store(folder)
    with pytest.warns(Notice) as said:
        outcome = run(made, store)
    words = " ".join(str(w.message) for w in said)
    assert "its record is that of another stage" in words and "it cannot be read" in words
    assert outcome.ran == 3 and numbers(made, store, outcome) == cells
