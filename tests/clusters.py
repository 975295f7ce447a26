"""Studies on a real cluster of Ray: two nodes of this machine, one of which is killed."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster as Nodes
from tests.kills import is_alive
from tests.study_fixture import plan

from distrust.errors import BadInput, DistrustError
from distrust.study import Store, cluster, run, score_cells
from distrust.study.cluster import Cluster
from distrust.study.codecs import TENSORS
from distrust.study.store import SIGN

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.filterwarnings("ignore::ResourceWarning")]

STUDY = {"attack": "badnets", "distiller": "kd"}
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
DEFENCE = """
import os, time
from pathlib import Path
from distrust.marks import defense

@defense(paper="none")
def {name}(model, clean, *, rng=None):
    '''A trial.'''
    folder = Path({folder!r})
    with (folder / "begun").open("a") as file:
        file.write(str(os.getpid()) + chr(10))
    {body}
    return model
"""
WAIT = 'while not (folder / "go").exists():\n        time.sleep(0.02)'


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head node, to which all are connected; each test adds to it what it kills."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.OURS.items():
            patch.setenv(name, value)
        patch.setenv("DISTRUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = Nodes(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "_system_config": QUICK, **NODE},
            shutdown_at_exit=False,
        )
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture
def here(nodes):
    return Cluster(nodes.address)


@pytest.fixture(scope="module")
def there(nodes):
    """Somebody who uses Ray already, and whose Ray it stays; its processes, too, which take seconds to start."""
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    yield Cluster("auto")
    ray.shutdown()


@pytest.fixture
def defence(plugin, tmp_path):
    """Registers a defence that writes down which process begins it."""

    def add(body, name="mine"):
        plugin(DEFENCE.format(folder=str(tmp_path), body=body, name=name), name)
        return lambda: [int(line) for line in (tmp_path / "begun").read_text().split()]

    return add


def numbers(made, store):
    """What must not depend on how the study was run."""
    cells = score_cells(made, store, run(made, store, mode="only-cached"))
    return [{k: v for k, v in cell.items() if k not in ("seconds", "env")} for cell in cells]


def written(folder):
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("[0-9a-f]*/stage.json")}


def until(true, seconds=300):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_node_changes_no_number_and_no_finished_stage(nodes, here, tmp_path, defence):
    begun = defence(WAIT)
    made, store, before = plan(**STUDY, defense=["none", "mine"]), Store(tmp_path / "store"), {}
    second = nodes.add_node(num_cpus=1, **NODE)

    def kill():
        until(lambda: (tmp_path / "begun").exists() and len(begun()) == 2)  # one on each node
        before.update(written(tmp_path / "store"))
        nodes.remove_node(second, allow_graceful=False)
        until(lambda: not all(map(is_alive, begun())))
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = run(made, store, cluster=here)
    killer.join()
    assert len(begun()) == 3, "only what the killed node was at is begun again"
    assert (outcome.ran, outcome.cached, outcome.failed) == (len(made.stages), 0, 0)
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == sorted([SIGN, *made.stages])
    now = written(tmp_path / "store")
    assert len(before) >= 4 and {key: now[key] for key in before} == before

    alone = Store(tmp_path / "alone")
    run(made, alone)
    assert numbers(made, store) == numbers(made, alone)
    for key, record in ((key, store.record(key)) for key in made.stages):
        assert record["files"].keys() == alone.record(key)["files"].keys()
        if TENSORS in record["files"]:
            ours, theirs = (one.tensors(key, TENSORS) for one in (store, alone))
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_damage_is_made_again_and_students_of_one_teacher_are_one_task(there, tmp_path):
    made, store = plan(**STUDY | {"distiller": ["kd", "at"]}), Store(tmp_path / "store")
    heard = []
    run(made, store, cluster=there, tell=lambda event, stage, record: heard.append((event, stage.key)))
    assert heard.count(("start", next(iter(made.stages)))) == 1 and len(heard) == 2 * len(made.stages)
    first, (teacher, *_) = numbers(made, store), made.stages
    students = [stage.key for stage in made.stages.values() if stage.kind == "student" and teacher in parents(stage)]
    assert len(students) == 2
    (weights,) = (tmp_path / "store" / teacher).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    for key in students:
        shutil.rmtree(tmp_path / "store" / key)
    with pytest.warns(Warning, match="is not what was written"):
        outcome = run(made, store, cluster=there)
    assert (outcome.ran, outcome.cached, outcome.failed) == (3, len(made.stages) - 3, 0)
    assert numbers(made, store) == first


def parents(stage):
    return [parent.key for parent in stage.parents]


def test_an_error_of_a_method_is_not_tried_again_and_the_grid_goes_on(there, tmp_path, defence):
    begun = defence("raise ValueError('no such thing')")
    made, store = plan(**STUDY, defense=["none", "mine"]), Store(tmp_path / "store")
    outcome = run(made, store, cluster=there)
    assert len(begun()) == 2 and outcome.failed == 6, "of the attacked arm and of the control, each with what it says"
    assert outcome.ran == len(made.stages) - 4, "what a failed stage leads to is not carried out"
    assert [cell["state"] for cell in score_cells(made, store, outcome)] == ["done", "failed"]


def test_a_stage_that_does_not_end_is_ended(there, tmp_path, defence):
    begun = defence("time.sleep(600)")
    store = Store(tmp_path / "store")
    run(plan(**STUDY), store)
    outcome = run(plan(**STUDY, defense="mine"), store, cluster=there, limit=2)
    errors = [record["error"] for record in outcome.records.values() if record["state"] == "failed"]
    assert sum(error.startswith("Timeout: it was not done in 2 s") for error in errors) == 2 == len(begun())
    assert not any(map(is_alive, begun()))


def test_a_process_that_is_told_to_end_has_not_failed(there, tmp_path, defence):
    """So a node that goes ends its processes; the stage is begun again elsewhere."""
    begun = defence("if not (folder / 'told').exists():\n        (folder / 'told').touch(); os.kill(os.getpid(), 15)")
    made, store = plan(**STUDY, defense="mine"), Store(tmp_path / "store")
    outcome = run(made, store, cluster=there)
    assert outcome.failed == 0 and {*store.keys()} == {*made.stages} and len(begun()) >= 3


def test_a_process_that_always_dies_is_said_in_words(there, tmp_path, defence, monkeypatch):
    monkeypatch.setattr(cluster, "RETRIES", 1)
    begun = defence("os._exit(1)")
    made, store = plan(**STUDY, defense="mine"), Store(tmp_path / "store")
    with pytest.raises(DistrustError, match="was lost 2 times .*run the same command again"):
        run(made, store, cluster=there)
    assert len(begun()) >= 2 and len(store.keys()) >= 2


def test_what_waits_when_a_run_ends_is_not_begun(there, tmp_path, defence, monkeypatch):
    """In a Ray that somebody goes on using; to cancel what waits makes Ray end its driver now and then."""
    defence("pass")
    made, store = plan(**STUDY, defense="mine", seeds=6), Store(tmp_path / "store")

    def stop(event, stage, record):
        if event == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, store, cluster=there, tell=stop)
    outcome = run(plan(**STUDY), Store(tmp_path / "other"), cluster=there)  # what waited has had its turn before
    assert outcome.failed == 0 and not (tmp_path / "begun").exists()
    assert 1 <= len(store.keys()) <= 3, "what ran goes on to its end, and is kept"


def test_a_store_that_a_node_does_not_see_is_refused(there):
    with pytest.raises(BadInput, match="does not see the store memory://ours. Give a folder that all nodes share"):
        run(plan(**STUDY), Store("memory://ours"), cluster=there)


def test_a_file_of_code_that_is_another_one_on_a_node_is_refused(there, tmp_path, defence, monkeypatch):
    defence("pass")
    monkeypatch.setattr("distrust.study.nodes.digest_of", lambda file: "another one")
    with pytest.raises(BadInput, match=r"has no .*mine.py, or another one. Put it into a folder that all nodes share"):
        run(plan(**STUDY, defense="mine"), Store(tmp_path / "store"), cluster=there)


def test_what_no_node_has_is_said_and_not_waited_for(there, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    with pytest.raises(BadInput, match="asks for 1 CPUs and 1 GPUs, which no node of the cluster has .*--device cpu"):
        run(plan(**STUDY), Store(tmp_path / "store"), cluster=there, device="cuda")
    with pytest.raises(BadInput, match="asks for 64 CPUs, which no node of the cluster has .*--cpus 1"):
        run(plan(**STUDY), Store(tmp_path / "store"), cluster=Cluster("auto", cpus=64))


@pytest.mark.parametrize(
    ("cpus", "source", "match"),
    [
        (2, "raise ImportError('there is none')", "has no Distrust 0.*, or another one .*there is none"),
        (3, "__path__, __version__ = [{path!r}], '0.0.1'", "has Distrust 0.0.1, and the study is run by"),
    ],
)
def test_a_node_with_no_distrust_or_another_one_is_refused(nodes, there, tmp_path, cpus, source, match):
    home = tmp_path / "home" / "distrust"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text(source.format(path=str(Path(cluster.__file__).parents[1])))
    node = nodes.add_node(num_cpus=cpus, env_vars={"PYTHONPATH": str(home.parent)}, **NODE)
    try:
        with pytest.raises(BadInput, match=match):
            run(plan(**STUDY), Store(tmp_path / "store"), cluster=Cluster("auto", cpus=cpus))
    finally:
        nodes.remove_node(node, allow_graceful=False)
