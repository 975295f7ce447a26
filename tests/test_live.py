"""What runs on a store, told by the run itself; and finished cells as runs of other programs."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_nothing_lost import STUDY

import distrust as dt
from distrust.cli import watching
from distrust.reporting.export import exported
from distrust.study import Store, live
from distrust.study.places import machine

CELLS = Path(__file__).parents[1] / "results" / "nad-mini"


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "BEAT", 0.01)
    Path("small.toml").write_text(STUDY)
    return "small.toml"


def heard(store, until):
    """The one run on a store, as soon as it is so."""
    for _ in range(1000):
        runs = live.runs(Store(store))
        if runs and until(runs[0]):
            return runs[0]
        time.sleep(0.01)
    raise AssertionError(runs)


def names(store):
    return [name for name in os.listdir(store) if name.startswith(".run-")]


def test_a_run_tells_of_itself_while_it_lasts(small):
    told = []

    def tell(event, stage, record):
        if event == "start":
            told.append(heard("runs", lambda run: [one["key"] for one in run["running"]] == [stage.key]))

    found = dt.run(small, jobs=1, seeds=2, tell=tell)
    assert len(told) == found.outcome.ran and [run["done"] for run in told] == [*range(len(told))]
    assert {(run["study"], run["to_run"], run["state"], run["process"]) for run in told} == {
        ("small", len(told), "running", os.getpid())
    }
    assert told[0]["left"] is None and told[-1]["left"] >= 0 and told[-1]["running"][0]["stage"].endswith("seed 1")
    assert [run["share"] for run in told] == sorted(run["share"] for run in told)
    assert names("runs") == [] and live.runs(Store("runs")) == []
    dt.run(small, jobs=1, seeds=2, tell=lambda *event: told.append(names("runs")))
    assert told[-1] == [], "nothing had to run"


def test_failures_are_told_with_their_last_lines(small):
    Path(small).write_text(STUDY.replace("size = 8", "size = 8\nteacher = {epochs = 1, lr = 1e30}", 1))
    told = []

    def tell(event, stage, record):
        if event == "failed" and not told:
            told.append(heard("runs", lambda run: run["failed"]))

    dt.run(small, jobs=1, tell=tell)
    (line,) = [line for line in watching.told(told[0]) if line.startswith("  failed ")]
    assert "on digits" in line and told[0]["failures"][0]["error"].strip().splitlines()[-1] in line
    assert len(line.splitlines()) == 1


def test_a_dead_run_is_told_as_dead_and_swept_by_the_next(small):
    dt.run(small, jobs=1)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    run = {"study": "small", "budget": "cpu", "to_run": 4, "node": "here", "machine": machine(), "share": 0.5}
    run |= {"process": process.pid, "began": 0, "updated": 0, "done": 1, "failed": 0, "skipped": 0, "failures": []}
    dead = Path("runs", f".run-{machine()}-{process.pid}.json")
    elsewhere = Path("runs", f".run-{'0' * 8}-{process.pid}.json")
    dead.write_text(json.dumps({**run, "running": {}}))
    elsewhere.write_text(json.dumps({**run, "running": {}, "machine": "0" * 8, "node": "there"}))
    Path("runs", ".run-00000000-1.json").write_text("[]")
    states = {run["node"]: (run["state"], run["left"]) for run in live.runs(Store("runs"))}
    assert states == {"here": ("dead", None), "there": ("silent", None)}
    assert any("dead" in line for line in watching.told(live.runs(Store("runs"))[1]))
    dt.run(small, jobs=1, mode="force")
    assert dead.name not in names("runs") and elsewhere.name in names("runs"), "nobody here knows of that one"


def test_watching_ends_by_ctrl_c_with_0_and_tells_of_each_change_once(small, capsys, monkeypatch):
    from distrust.cli import app

    dt.run(small, jobs=1)
    file = Path("runs", f".run-{machine()}-{os.getpid()}.json")
    run = {"study": "small", "budget": "cpu", "to_run": 4, "node": "here", "machine": machine(), "share": 0.5}
    run |= {"process": os.getpid(), "began": time.time(), "updated": time.time(), "failed": 0, "skipped": 0}

    def watched(*words):
        states = iter([None, 1, 1, 2, None, KeyboardInterrupt])

        def wait(seconds):
            state = next(states)
            if state is KeyboardInterrupt:
                raise state
            if state is None:
                file.unlink(missing_ok=True)
            else:
                running = {"a" * 32: {"stage": f"student {state}", "began": run["began"]}}
                file.write_text(json.dumps({**run, "done": state, "running": running, "failures": []}))

        monkeypatch.setattr(live.watch, "__defaults__", (wait,))
        assert app(["status", "--watch", *words], standalone_mode=False) == 0
        return capsys.readouterr().out.splitlines()

    assert watched() == [
        "Nothing runs on runs.",
        "small (cpu) on here: 1/4 stages", "  at student 1",
        "small (cpu) on here: 2/4 stages", "  at student 2",
        "Nothing runs on runs.",
    ]  # fmt: skip
    lines = [json.loads(line) for line in watched("--json")]
    assert [[run["done"] for run in line["runs"]] for line in lines] == [[], [1], [2], []]


# other programs


@pytest.fixture(scope="module")
def cells():
    return dt.results(CELLS).cells


def test_a_cell_as_a_run_says_what_was_asked_and_what_was_measured(cells):
    made = exported(cells[0])
    assert made.params["seed"] == 0 and made.params["images"] == cells[0]["images"]
    assert made.metrics["acc"] == cells[0]["acc"] and made.metrics["n"] == cells[0]["n"]
    assert made.tags["flags"] == ", ".join(cells[0]["flags"]) and made.tags["reproduce"] == cells[0]["reproduce"]
    assert set(cells[0]["keys"].values()) <= set(made.tags.values())
    assert exported({**cells[0], "acc": 0.5}).name != made.name == exported(dict(cells[0])).name


def test_tensorboard_reads_back_what_was_written(cells, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = dt.results(CELLS)
    assert found.export(f"tensorboard:{tmp_path}") == len(found.cells)
    assert found.export(f"tensorboard:{tmp_path}") == 0, "they are there"
    made = exported(cells[0])
    events = EventAccumulator(str(tmp_path / made.name)).Reload()
    assert {name: pytest.approx(events.Scalars(name)[0].value, rel=1e-6) for name in events.Tags()["scalars"]} == (
        made.metrics
    )
    assert {f"{name}/text_summary" for name in made.tags} <= set(events.Tags()["tensors"])


def test_mlflow_reads_back_what_was_written(cells, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    found = dt.results(CELLS)
    assert found.export(f"mlflow:{tmp_path}/runs") == len(found.cells)
    assert found.export(f"mlflow:{tmp_path}/runs") == 0
    client, made = MlflowClient(f"{tmp_path}/runs"), exported(cells[0])
    there = client.get_experiment_by_name("nad-mini").experiment_id
    (run,) = [run for run in client.search_runs([there]) if run.info.run_name == made.name]
    assert run.info.status == "FINISHED" and run.data.metrics == made.metrics
    assert run.data.params == {name: str(value) for name, value in made.params.items()}
    assert made.tags.items() <= run.data.tags.items()


@pytest.mark.parametrize(
    "to, kind, message",
    [
        ("wandb:here", dt.BadInput, "Give tensorboard:FOLDER or mlflow:URI"),
        ("tensorboard:", dt.BadInput, "Give tensorboard:FOLDER or mlflow:URI"),
        ("tensorboard:taken/more", dt.BadInput, "taken/more cannot be written"),
        ("mlflow:sqlite:///nothing.db", dt.BadInput, "takes no runs"),
    ],
)
def test_a_place_that_takes_no_runs_is_told(cells, tmp_path, monkeypatch, to, kind, message):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("no folder")
    with pytest.raises(kind, match=message):
        dt.results(CELLS).export(to)


@pytest.mark.parametrize("name, to", [("tensorboard", "tensorboard:x"), ("mlflow", "mlflow:x")])
def test_without_the_extra_a_sentence_says_what_to_install(cells, tmp_path, monkeypatch, name, to):
    monkeypatch.chdir(tmp_path)
    for module in [module for module in sys.modules if module.split(".")[0] == name or "tensorboard" in module]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(dt.NotFound, match=r"pip install 'distrust\[export\]'"):
        dt.results(CELLS).export(to)


def test_every_command_of_the_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    from distrust.cli import app

    root = CELLS.parents[1]
    page = (root / "docs" / "many-cells.md").read_text()
    for name in ("studies", "results"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTRUST_DATA", str(tmp_path / "sets"))  # not everybody has the set that it speaks of
    (tmp_path / "sets").mkdir()
    y = np.arange(1000) % 10
    np.savez(tmp_path / "sets" / "cifar10.npz", images=np.zeros((1000, 32, 32, 3), np.uint8), labels=y)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(live.watch, "__defaults__", (lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt),))
    lines = [line for line in page.splitlines() if line.startswith("distrust ")]
    for line in lines:
        words = shlex.split(line.replace("http://127.0.0.1:5000", "mlruns"))[1:]  # no server here
        assert app(words, standalone_mode=False) == 0, line
        assert capsys.readouterr().out.strip(), line
    assert len(lines) == 7
