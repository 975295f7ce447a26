"""Whole studies, tiny but real: digits at 8×8, WRN-10-1, one epoch."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import BrokenExecutor, Future

import fsspec
import pytest
import torch

from distrust import measure
from distrust.errors import BadInput, DistrustError, StoreError
from distrust.flags import flag
from distrust.registry import Method, registry
from distrust.study import Store, make_plan, run, score_cells
from distrust.study.codecs import TENSORS
from distrust.study.spec import study_from
from distrust.study.store import SIGN
from distrust.study.work import product, recipe_of

running = sys.modules["distrust.study.executors"]

BUDGET = {
    "train": 96, "test": 40, "size": 8, "teacher": {"epochs": 1, "batch_size": 32},
    "student": {"epochs": 1, "batch_size": 32}, "defense": {"finetune": {"epochs": 1}},
}  # fmt: skip
CARRY = {
    "attack": "badnets",
    "distiller": "kd",
}  # 12 stages: 4 models, and what each says twice


def study(**changes):
    return study_from({"name": "trial", "teacher": "wrn10-1", "budgets": {"cpu": BUDGET}} | changes)


def plan(**changes):
    return make_plan(study(**CARRY | changes))


def states(outcome):
    return sorted(record["state"] for record in outcome.records.values())


def numbers(made, store, outcome):
    """What must not depend on how the study was run."""
    changing = ("seconds", "env")
    return [{k: v for k, v in cell.items() if k not in changing} for cell in score_cells(made, store, outcome)]


def written(folder):
    """Contents and times of all that is in a store."""
    return {p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True, scope="module")
def one_thread(tmp_path_factory):
    """Sums may differ in the last bit with the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTRUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(one_thread, tmp_path_factory):
    """A folder with the finished study, and its cells."""
    folder = tmp_path_factory.mktemp("finished")
    made, store = plan(), Store(folder)
    outcome = run(made, store)
    assert (outcome.ran, outcome.cached, outcome.failed, outcome.skipped, outcome.missing) == (12, 0, 0, 0, 0)
    return folder, numbers(made, store, outcome)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished store."""
    return shutil.copytree(finished[0], tmp_path / "store")


@pytest.fixture
def defence(plugin):
    """Registers a defence with this body for one test."""

    def add(body, name="mine"):
        return plugin(
            "import copy\nfrom pathlib import Path\nfrom distrust.errors import Skip\n"
            "from distrust.marks import defense\n\n"
            f"@defense(paper='none')\ndef {name}(model, clean, *, rng=None):\n"
            f"    '''A trial.'''\n    {body}\n",
            name,
        )

    return add


# running and scoring


def test_a_cell_holds_what_measuring_its_models_gives(finished):
    (cell,), store, (planned,) = finished[1], Store(finished[0]), plan().cells
    student, control = (product(planned.arms[arm]["model"], store) for arm in ("ours", "control"))
    test, backdoor = (product(planned.arms["ours"][name], store, name) for name in ("test", "backdoor"))
    found = measure(student, test, backdoor, control=control).record()
    assert {name: cell[name] for name in found} == found
    assert cell["state"] == "done" and cell["place"] == 1 and cell["target"] == 0 and 0 <= cell["acc_others"] <= 1


def test_a_record_says_how_the_stage_came_about(finished):
    store, made = Store(finished[0]), plan()
    for key, stage in made.stages.items():
        record = store.record(key)
        assert record["kind"] == stage.kind and record["recipe"] == recipe_of(stage) and record["seconds"] >= 0
        assert record["parents"] == [p.key for p in stage.parents] and record["taint"] == list(stage.taint)
        assert record["env"]["torch"] == torch.__version__
        if stage.kind in ("teacher", "student"):
            assert record["file"] == ("model.tainted-badnets.safetensors" if stage.taint else "model.safetensors")
        assert record["recipe"]["seed"] == 0 and record["recipe"]["version"] == stage.call["version"]
    assert {p.suffix or p.name for p in finished[0].rglob("*") if p.is_file()} == {".json", ".safetensors", SIGN}


def test_progress_is_told_stage_by_stage(tmp_path, finished):
    heard = []
    made = plan(distiller="none")
    run(made, Store(tmp_path), tell=lambda event, stage, record: heard.append((event, stage.kind, record)))
    assert [(e, k) for e, k, _ in heard[:3]] == [
        ("start", "teacher"),
        ("step", "teacher"),
        ("done", "teacher"),
    ]
    assert {k: heard[1][2][k] for k in ("step", "steps")} == {"step": 3, "steps": 3}
    heard.clear()
    run(made, Store(tmp_path), tell=lambda event, stage, record: heard.append(event))
    assert heard == ["cached"] * len(made.stages)


def test_a_study_without_an_attack_has_accuracy_only(tmp_path):
    made, store = plan(attack="none", distiller="none"), Store(tmp_path)
    (cell,) = score_cells(made, store, run(made, store))
    assert cell["acc"] is not None and cell["asr"] is None and cell["acc_others"] == cell["acc"]


def test_a_tuned_defence_is_chosen_and_carries_the_chosen_model(tmp_path):
    made, store = (
        plan(distiller="none", attack="none", defense="finetune[lr=tune(0.1,1e-6)]", within=0.0),
        Store(tmp_path),
    )
    (cell,) = score_cells(made, store, run(made, store))
    (choose,) = (s for s in made.stages.values() if s.kind == "choose")
    record = store.record(choose.key)
    notes = record["notes"]
    before, after = notes["validation"]["before"], notes["validation"]["after"]
    good = [i for i, acc in enumerate(after) if acc >= before]
    want = good[0] if good else after.index(max(after))
    assert cell["chosen"] == notes["option"] == choose.call["options"]["candidates"][want]
    assert notes["chosen"] == want and cell["validation"] == notes["validation"]
    ours, theirs = (product(stage, store).state_dict() for stage in (choose, choose.parents[1 + want]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_controls_choice_stands_beside_and_where_they_differ_the_row_says_so(tmp_path):
    made, store = plan(distiller="none", defense="finetune[lr=tune(0.1,1e-6)]", within=0.0), Store(tmp_path)
    outcome = run(made, store)
    (cell,) = made.cells
    choices = {
        arm: next(stage for stage in cell.seen[arm][0].lineage() if stage.kind == "choose")
        for arm in ("ours", "control")
    }
    for control in (0, 1):
        for arm, at in (("ours", 1), ("control", control)):
            record = outcome.records[choices[arm].key]
            option = choices[arm].call["options"]["candidates"][at]
            outcome.records[choices[arm].key] = {**record, "notes": {**record["notes"], "option": option}}
        (told,) = score_cells(made, store, outcome)
        assert (told["chosen"], told["chosen_control"]) == ({"lr": 1e-6}, {"lr": (0.1, 1e-6)[control]})
        assert ("tuned-apart" in told["flags"]) == (control == 0)


def test_a_candidate_that_fails_is_not_chosen_and_its_flags_stay_with_it(tmp_path, monkeypatch):
    method = registry.get("defenses", "finetune")

    def picky(model, clean, *, lr: float = 0.1, epochs: int = 1, rng=None):
        if lr > 0.5:
            raise ArithmeticError("the loss is nan at step 3")
        if lr < 1e-5:
            flag("attention-dead")
        return method.made(method.check({"lr": lr, "epochs": epochs}))(model, clean, rng=rng)

    monkeypatch.setattr(registry, "_kinds", {**registry._kinds, "defenses": dict(registry.kind("defenses"))})
    registry._kinds["defenses"]["finetune"] = Method("finetune", method.mark, picky)
    made = plan(distiller="none", attack="none", defense="finetune[lr=tune(1.0,0.01,1e-6)]", within=1.0)
    store = Store(tmp_path)
    (cell,) = score_cells(made, store, run(made, store))
    assert cell["state"] == "done" and cell["chosen"] == {"lr": 0.01}
    assert cell["validation"]["after"][0] is None
    assert "attention-dead" not in cell["flags"], "raised by a candidate that was not chosen"
    nothing = plan(distiller="none", attack="none", defense="finetune[lr=tune(1.0,2.0)]", within=1.0)
    (cell,) = score_cells(nothing, store, run(nothing, store))
    assert cell["state"] == "failed" and "the loss is nan at step 3" in cell["error"]


# modes


def test_a_second_run_does_nothing(folder, finished):
    before = written(folder)
    made, store = plan(), Store(folder)
    outcome = run(made, store)
    assert (outcome.ran, outcome.cached) == (0, 12)
    assert written(folder) == before and numbers(made, store, outcome) == finished[1]


def test_a_bigger_study_reuses_what_there_is(folder):
    outcome = run(plan(defense=["none", "finetune"]), Store(folder))
    assert (outcome.ran, outcome.cached) == (6, 12)  # two defences, four predictions


def test_force_does_everything_again_with_the_same_bits(folder, finished):
    before = written(folder)
    made, store = plan(), Store(folder)
    outcome = run(made, store, mode="force")
    assert (outcome.ran, outcome.cached) == (12, 0)
    assert numbers(made, store, outcome) == finished[1]
    after = written(folder)
    assert after.keys() == before.keys()
    for name, (changed, content) in after.items():
        assert changed > before[name][0] or name.name == SIGN
        assert content == before[name][1] or name.name == "stage.json"


def test_only_cached_looks_and_touches_nothing(tmp_path, folder):
    outcome = run(plan(), Store(tmp_path / "empty"), mode="only-cached")
    assert (outcome.ran, outcome.missing, outcome.records) == (0, 12, {})
    assert not (tmp_path / "empty").exists()
    shutil.rmtree(folder / plan().cells[0].seen["ours"][0].key)
    outcome = run(plan(), Store(folder), mode="only-cached")
    assert (outcome.ran, outcome.cached, outcome.missing) == (0, 11, 1)


def test_a_store_in_memory_gives_the_same_cells(finished):
    made, store = plan(), Store(f"memory://{uuid.uuid4().hex}")
    assert numbers(made, store, run(made, store)) == finished[1]
    fsspec.filesystem("memory").store.clear()


# what fails


def test_a_failed_stage_is_stored_and_the_grid_goes_on(tmp_path):
    made, store = plan(attack=["badnets[target=99]", "none"]), Store(tmp_path)
    outcome = run(made, store)
    failed, fine = score_cells(made, store, outcome)
    assert fine["state"] == "done" and fine["acc"] is not None
    assert failed["state"] == "failed" and failed["acc"] is None
    teacher = made.cells[0].final[0]
    assert store.record(teacher.key)["error"].startswith("BadInput: target=99 is no class")
    assert failed["error"] == f"after {teacher.label}: {store.record(teacher.key)['error']}"
    assert store.record(made.cells[0].final[1].key) is None  # a student that inherits is not stored
    again = run(made, store)
    assert again.ran == 0 and states(again) == states(outcome)


BOMB = "assert not Path({!r}).exists(), 'boom'; return copy.deepcopy(model)"


def test_retry_does_again_what_failed_and_what_hung_on_it(folder, defence, tmp_path):
    (tmp_path / "bomb").touch()
    defence(BOMB.format(str(tmp_path / "bomb")))
    made, store = plan(defense="mine"), Store(folder)
    outcome = run(made, store)
    assert (outcome.cached, outcome.ran, outcome.failed) == (10, 2, 6)  # two bombs, and two predictions of each
    assert score_cells(made, store, outcome)[0]["error"].endswith("AssertionError: boom")
    (tmp_path / "bomb").unlink()
    before = written(folder)
    outcome = run(made, store)
    assert outcome.ran == 0 and states(outcome).count("failed") == 6
    outcome = run(made, store, mode="retry")
    assert (outcome.ran, states(outcome)) == (6, ["done"] * len(made.stages))
    assert score_cells(made, store, outcome)[0]["state"] == "done"
    after = written(folder)
    assert all(after[name] == was for name, was in before.items() if b'"state": "failed"' not in was[1])


def test_a_method_that_cannot_apply_is_skipped_with_its_reason(folder, defence):
    defence("raise Skip('mine needs an encoder; this is a classifier')")
    made, store = plan(defense=["mine", "none"]), Store(folder)
    outcome = run(made, store)
    skipped, fine = score_cells(made, store, outcome)
    assert (skipped["state"], skipped["acc"], skipped["flags"]) == ("skipped", None, ["skipped"])
    assert skipped["error"].endswith("Skip: mine needs an encoder; this is a classifier")
    assert fine["state"] == "done" and outcome.failed == 0 and outcome.skipped == 6


@pytest.mark.parametrize(
    "error", ["AttributeError('a')", "OSError('no such disk')", "ImportError('b')", "SystemExit('c')"]
)
def test_whatever_a_plugin_raises_the_grid_goes_on(error, folder, defence):
    defence(f"raise {error}")
    made, store = plan(defense=["mine", "none"]), Store(folder)
    failed, fine = score_cells(made, store, run(made, store))
    assert failed["state"] == "failed" and error.partition("(")[0] in failed["error"] and fine["state"] == "done"


def test_a_process_that_is_told_to_end_has_not_failed(folder, defence):
    """Else the next run takes the stage for done with, and leaves out what hangs on it."""
    defence("import signal; signal.raise_signal(signal.SIGTERM); return model")
    made, store = plan(defense="mine"), Store(folder)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as a server or Ray does it
    try:
        with pytest.raises(SystemExit):
            run(made, store)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not [key for key, stage in made.stages.items() if stage.kind == "defense" and store.record(key)]


def test_flags_raised_in_a_stage_reach_the_cell(tmp_path):
    budget = BUDGET | {"student": BUDGET["student"] | {"teacher_mode": "train"}}
    made, store = plan(budgets={"cpu": budget}, seeds=2), Store(tmp_path)
    cells = score_cells(made, store, run(made, store))
    assert all("teacher-in-train-mode" in cell["flags"] and "few-images" in cell["flags"] for cell in cells)
    assert not any("one-seed" in cell["flags"] for cell in cells)


def test_no_more_than_the_right_number_of_jobs():
    with pytest.raises(BadInput, match="jobs=0"), running.executor(0):
        pass


# the store gives up


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_store_that_fills_up_keeps_what_was_finished_and_goes_on_later(code, tmp_path, monkeypatch, finished):
    made, store = plan(), Store(tmp_path)
    opened, files = store.fs.open, []

    def open_(path, mode="rb", **options):
        if mode == "wb" and "probe" not in path:
            files.append(path)
            if len(files) > 5:  # two files a stage: in the middle of the third
                raise OSError(code, os.strerror(code))
        return opened(path, mode, **options)

    monkeypatch.setattr(store.fs, "open", open_)
    with pytest.raises(StoreError, match=os.strerror(code)):
        run(made, store)
    monkeypatch.undo()
    done = Store(tmp_path).keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == [SIGN, *done] and len(done) == 2
    outcome = run(made, store)
    assert outcome.cached == 2 and numbers(made, store, outcome) == finished[1]


def test_nothing_starts_if_the_store_cannot_be_written(tmp_path):
    (tmp_path / "store").write_text("")
    heard = []
    with pytest.raises(StoreError, match="cannot be written"):
        run(plan(), Store(tmp_path / "store"), tell=lambda *news: heard.append(news))
    assert heard == []


def as_earlier(folder):
    """A store as it was before records had checksums."""
    for file in folder.glob("*/stage.json"):
        record = json.loads(file.read_text())
        plain = {name: value for name, value in record.items() if name not in ("key", "files", "sum")}
        file.write_text(json.dumps(plain, indent=1))


def test_a_store_without_checksums_is_still_used(folder, finished):
    as_earlier(folder)
    before, made, store = written(folder), plan(), Store(folder)
    outcome = run(made, store)
    assert (outcome.ran, outcome.cached) == (0, 12)
    assert written(folder) == before and numbers(made, store, outcome) == finished[1]


def test_nothing_starts_in_a_store_of_an_earlier_version(tmp_path, folder):
    as_earlier(folder)
    (folder / SIGN).unlink()
    before, heard = written(folder), []
    for mode in ("resume", "retry", "force", "only-cached"):
        with pytest.raises(StoreError, match="made by another version of Distrust.*Run the same command with"):
            run(plan(), Store(folder), mode=mode, tell=lambda *news: heard.append(news))
    assert written(folder) == before and heard == []


# more processes


def test_a_store_that_lost_its_sign_is_known_by_its_records(folder):
    for sign in (None, b"", b"\xff2"):
        (folder / SIGN).unlink()
        if sign is not None:
            (folder / SIGN).write_bytes(sign)
        assert run(plan(), Store(folder), mode="only-cached").cached == 12
        Store(folder).check_writable()
        assert (folder / SIGN).read_text() == "2\n"


def test_a_killed_worker_is_said_in_words(tmp_path, monkeypatch):
    class Dying(running.InProcess):
        def submit(self, call, *args, **kwargs):
            future = Future()
            future.set_exception(BrokenExecutor("A process in the process pool was terminated abruptly"))
            return future

    monkeypatch.setattr(running, "InProcess", Dying)
    with pytest.raises(DistrustError, match="a worker process was killed.*run the same command again"):
        run(plan(), Store(tmp_path))


ORPHANS = """
import os, time
from distrust.study.executors import executor

if __name__ == "__main__":
    with executor(2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_workers_end_with_their_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(ORPHANS)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        parent.send_signal(signal.SIGKILL)
        assert parent.communicate(timeout=60)[0] == ""  # the pipe closes when the last worker is gone


# a kill in the middle


STUDY = """
import json, sys, time
import torch
from distrust.study import Store, make_plan
from distrust.study.runner import run
from distrust.study.codecs import TENSORS
from distrust.study.spec import study_from
from distrust.study.store import SIGN
from distrust.study.work import product, recipe_of

torch.set_num_threads(1)
made = make_plan(study_from(json.loads(sys.argv[1])))
# Each training takes a second, so that there is time to kill it.
run(made, Store(sys.argv[2]), tell=lambda event, *_: time.sleep(event == "step"))
"""


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_stopped_and_ends_the_same(tmp_path, finished):
    store, made = Store(tmp_path / "store"), plan()
    content = json.dumps(study(**CARRY).model_dump(exclude_defaults=True) | {"name": "trial"})
    assert make_plan(study_from(json.loads(content))).stages.keys() == made.stages.keys()
    with subprocess.Popen([sys.executable, "-c", STUDY, content, tmp_path / "store"]) as process:
        deadline = time.monotonic() + 60
        while len(store.keys()) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    done = store.keys()
    assert 2 <= len(done) < 12
    for key in done:  # what counts as finished is whole
        record = store.record(key)
        assert record["state"] == "done"
        assert product(made.stages[key], store) if "file" in record else store.tensors(key, TENSORS)
    before = {name: was for name, was in written(tmp_path / "store").items() if name.parts[0] in done}
    outcome = run(made, store)
    assert (outcome.cached, outcome.ran) == (len(done), 12 - len(done))
    after = written(tmp_path / "store")
    assert all(after[name] == was for name, was in before.items())
    assert numbers(made, store, outcome) == finished[1]
