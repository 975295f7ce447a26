"""Of all who work on one store, one makes a stage: whoever waits, dies, sleeps or lives by another clock."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from tests.study_fixture import DEFENCE, plan

from distrust.errors import StoreError
from distrust.registry import registry
from distrust.study import Store, leases, run, score_cells
from distrust.study.places import machine
from distrust.study.store import SIGN

A, B = "a" * 32, "b" * 32


def lease(store, key=A, turn=0, where=None, process=None):
    """Somebody's lease, as it lies there."""
    text = json.dumps({"machine": where or machine(), "process": process or os.getpid(), "node": "x", "id": "x"})
    store.place.make()
    store.place.put(f".lease-{key}-{turn}", text.encode())


def left(store):
    return store.place.names(".lease-")


@pytest.fixture(scope="module")
def gone():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@pytest.fixture
def later(monkeypatch):
    """The store's clock goes on by so many seconds."""

    def go(store, seconds):
        kind = type(store.place)
        now = kind.now
        monkeypatch.setattr(kind, "now", lambda self: now(self) + seconds)

    return go


def test_one_has_a_stage_and_nobody_else_until_the_end(url):
    with Store(url).leased([A]) as ours:
        assert ours == [A] and len(left(Store(url))) == 1
        with Store(url).leased([A, B]) as others:
            assert others == [B], "what is free is had"
        assert len(left(Store(url))) == 1
    assert left(Store(url)) == []
    with pytest.raises(KeyError), Store(url).leased([A]) as ours:
        assert ours == [A]
        raise KeyError
    assert left(Store(url)) == []


def test_a_lease_of_a_process_that_ended_here_is_taken_over_at_once(url, gone):
    store = Store(url)
    lease(store, process=gone)
    lease(store, turn=1, process=gone)  # and so did the one that took it over
    with store.leased([A]) as ours:
        assert ours == [A] and len(left(store)) == 3
        with store.leased([A]) as others:
            assert others == []
    assert left(store) == []


@pytest.mark.parametrize("off", [-1e6, 0, 1e6])
def test_a_lease_of_another_machine_lives_by_the_clock_of_the_store(url, gone, later, off, monkeypatch):
    store = Store(url)
    lease(store, where="01234567", process=gone)  # a number that says nothing there
    monkeypatch.setattr(time, "time", lambda: off)
    with store.leased([A]) as ours:
        assert ours == []
    later(store, leases.EXPIRED + 2)
    with store.leased([A]) as ours:
        assert ours == [A]
    assert left(store) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"machine": 1}', b"\xff", b'{"machine": "0", "process": []}'])
def test_a_lease_that_cannot_be_read_is_of_somebody(url, content, later):
    store = Store(url)
    store.place.make()
    store.place.put(f".lease-{A}-0", content)
    with store.leased([A]) as ours:
        assert ours == []
    later(store, leases.EXPIRED + 2)
    with store.leased([A]) as ours:
        assert ours == [A]


def test_who_works_long_shows_that_he_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "EXPIRED", 0.1)
    with Store(tmp_path).leased([A]):
        (file,) = tmp_path.glob(".lease-*")
        for _ in range(3):
            os.utime(file, (0, 0))
            while not file.stat().st_mtime:
                time.sleep(0.01)
    assert left(Store(tmp_path)) == []


def test_of_many_who_take_over_one_does(tmp_path, gone):
    """Each finds a dead lease at the same moment, again and again."""
    store, holding, most, had = Store(tmp_path), list[int](), list[int](), list[int]()
    start = threading.Barrier(6)

    def take(me):
        for turn in range(30):
            if start.wait() == 0:
                lease(store, process=gone)
            start.wait()
            with store.leased([A]) as ours:
                if ours:
                    holding.append(me)
                    most.append(len(holding))
                    had.append(turn)
                    holding.remove(me)

    threads = [threading.Thread(target=take, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(had) == set(range(30)) and set(most) == {1}
    store.sweep()
    assert left(store) == []


def test_a_sweep_takes_the_dead_and_leaves_the_living(url, gone):
    store = Store(url)
    lease(store, A, process=gone)
    lease(store, B, turn=1, process=gone)  # whose first one was removed before its process ended
    lease(store, "c" * 32)
    store.place.put(".lease-mine", b"")  # none of ours
    store.check_writable()
    assert left(store) == [f".lease-{'c' * 32}-0", ".lease-mine"]


def test_a_place_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.check_writable()

    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="cannot be written.*still there"), store.leased([A]):
        pass
    assert left(store) == []


# runs


def test_a_run_goes_on_with_other_stages_while_somebody_is_at_one(tmp_path):
    made, store, heard = plan(attack="badnets", distiller="none"), Store(tmp_path), list[tuple[str, str]]()
    first = next(iter(made.stages))
    with contextlib.ExitStack() as other:
        assert other.enter_context(store.leased([first])) == [first]

        def tell(event, stage, record):
            heard.append((event, stage.key))
            if event == "done":
                other.close()

        outcome = run(made, store, tell=tell)
    done = [key for event, key in heard if event == "done"]
    assert done[0] != first and set(done) == set(made.stages) and outcome.ran == len(made.stages)
    assert heard.count(("start", first)) == 1
    assert left(store) == []


@pytest.mark.parametrize("mode", ["resume", "retry", "force"])
@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_another_run_made_meanwhile_is_not_made_again(tmp_path, mode, state):
    made, store, heard = plan(attack="none", distiller="none"), Store(tmp_path / "ours"), list[str]()
    whole = Store(tmp_path / "theirs")
    run(made, whole)
    teacher, *others = made.stages
    record, files = whole.load(teacher)
    if state == "failed":
        record, files = {**record, "state": "failed", "error": "oh"}, {}
    with contextlib.ExitStack() as other:
        other.enter_context(store.leased([teacher]))
        threading.Timer(0.3, lambda: (store.save(teacher, record, files), other.close())).start()
        outcome = run(made, store, mode=mode, tell=lambda event, stage, record: heard.append(event))
    assert outcome.records[teacher] == store.record(teacher) == (written := store.record(teacher))
    assert written["env"] == record["env"] and written["seconds"] == record["seconds"]
    assert (outcome.cached, outcome.ran) == (1, len(others) if state == "done" else 0)
    assert heard.count("cached") == 1 and left(store) == []


DRIVER = """
import json, sys

if __name__ == "__main__":
    from distrust.registry import registry
    from distrust.study import Store, run
    from tests.study_fixture import plan

    registry.add(sys.argv[1])
    made = plan(attack="badnets", distiller="none", defense=["none", "mine"])
    outcome = run(made, Store(sys.argv[2]))
    print(json.dumps({"ran": outcome.ran, "cached": outcome.cached}))
"""

BODY = """
    import os, time
    at = os.open({log!r}, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(at, b"x")
    os.close(at)
    if {sleeps} and os.path.getsize({log!r}) == 1:
        time.sleep(600)
"""


@pytest.fixture
def driver(tmp_path, plugin):
    """Starts a run elsewhere of a study, and gives its plan. Its defence tells a file each time that it is called."""

    def start(url, sleeps=False):
        body = BODY.format(log=str(tmp_path / "log"), sleeps=sleeps)
        plugin(DEFENCE.replace("    return model", f"{body}    return model"))
        (tmp_path / "driver.py").write_text(DRIVER)
        paths = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
        words = [sys.executable, tmp_path / "driver.py", registry.files[-1], url]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
        processes.append(process)
        return process, plan(attack="badnets", distiller="none", defense=["none", "mine"])

    processes = []
    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["directory", pytest.param("s3", marks=pytest.mark.slow)])
def test_two_runs_on_one_store_make_every_stage_once(tmp_path, request, where, driver):
    url = str(tmp_path / "store") if where == "directory" else f"s3://{request.getfixturevalue('bucket')}/runs"
    process, made = driver(url)
    store = Store(url)
    while not (left(store) or store.keys()):  # it has begun
        assert process.poll() is None
        time.sleep(0.05)
    ours = run(made, store)
    theirs = json.loads(process.communicate(timeout=300)[0])
    n = len(made.stages)
    assert 0 < ours.ran < n and ours.ran + theirs["ran"] == n
    assert ours.ran + ours.cached == theirs["ran"] + theirs["cached"] == n
    assert (tmp_path / "log").read_text() == "xx", "one for either arm"
    assert sorted(store.place.names()) == sorted([SIGN, *made.stages]), "no lease, no draft"
    cells = score_cells(made, store, run(made, store, mode="only-cached"))
    assert [cell["state"] for cell in cells] == ["done", "done"]


def test_what_a_killed_run_was_at_is_taken_over_at_once(tmp_path, driver):
    process, made = driver(str(tmp_path / "store"), sleeps=True)
    while not (tmp_path / "log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()  # and not buried
    store, began = Store(tmp_path / "store"), time.monotonic()
    (name,) = left(store)
    assert made.stages[name[7:39]].kind == "defense"
    outcome = run(made, store)
    assert outcome.ran + outcome.cached == len(made.stages) and time.monotonic() - began < leases.EXPIRED
    assert (tmp_path / "log").read_text() == "xxx" and left(store) == []
