"""What is asked of Ray, where none has to run; studies on a real one are in tests/clusters.py (`make cluster`)."""

from __future__ import annotations

import platform
import sys

import pytest
import ray
import torch
from tests.study_fixture import plan

from distrust import plan as planned
from distrust.cli import app
from distrust.errors import BadInput, DistrustError
from distrust.study import Store, cluster, nodes, run
from distrust.study.cluster import Cluster, cluster_of
from distrust.study.nodes import Unseen, setting_of, there
from distrust.study.store import SIGN

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.filterwarnings("ignore::ResourceWarning")]

STUDY = {"attack": "badnets", "distiller": "kd"}


def test_an_address_that_does_not_answer_is_said_soon(tmp_path, monkeypatch):
    ray.shutdown()
    monkeypatch.setattr(cluster, "ANSWER", 4)
    for address in ("127.0.0.1:1", "nonsense"):
        with pytest.raises(BadInput, match=f"no Ray answers at '{address}' .*ray start --head"):
            run(plan(**STUDY), Store(tmp_path / "store"), cluster=Cluster(address))
    assert [p.name for p in (tmp_path / "store").iterdir()] == [SIGN]


def test_without_ray_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DistrustError, match=r"pip install 'distrust\[ray\]'"):
        run(plan(**STUDY), Store(tmp_path / "store"), cluster=Cluster())


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"cpus": 2}, "cpus=2 is what a stage asks Ray for"),
        ({"gpus": 0.5}, "gpus=0.5 is what a stage asks Ray for"),
        ({"ray": "local", "cpus": 0}, "cpus=0: give 1 or more"),
        ({"ray": "local", "gpus": 2.0, "device": "cuda"}, "gpus=2.0 is outside"),
        ({"ray": "local", "gpus": 0.5}, "but the device is the CPU"),
        ({"ray": "local", "device": "cuda:1"}, "Type device=cuda"),
        ({"ray": "ray://there:10001"}, "ray=auto"),
        ({"ray": "there:6379", "jobs": 4}, "jobs=4 is for this machine"),
    ],
)
def test_what_does_not_go_together_is_refused(asked, match):
    given = {"ray": None, "cpus": None, "gpus": None, "jobs": 0, "device": "cpu"} | asked
    with pytest.raises(BadInput, match=match):
        cluster_of(**given)


def test_a_stage_asks_for_a_gpu_only_where_a_network_runs():
    asks, made = Cluster("auto", 2, 0.25).asks, plan(attack="badnets", defense="none").stages.values()
    assert {asks(stage, "cuda") for stage in made} == {(2, 0.25)} and {asks(stage, "cpu") for stage in made} == {(2, 0)}


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (["FILE"], None),
        (["FILE", "--ray"], "local"),
        (["--ray", "FILE"], "local"),
        (["FILE", "--ray", "--dry-run"], "local"),
        (["FILE", "--ray", "auto"], "auto"),
        (["--ray=10.0.0.1:6379", "FILE"], "10.0.0.1:6379"),
    ],
)
def test_ray_stands_with_an_address_or_alone(words, address, tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.toml").write_text("name = 'tiny'\nteacher = 'wrn10-1'\nattack = 'badnets'\n")
    monkeypatch.chdir(tmp_path)
    asked = {}
    monkeypatch.setattr("distrust.plan", lambda study, **given: asked.update(given) or planned(study, **given))
    words = [word.replace("FILE", "tiny.toml") for word in words]
    assert app(["run", *words, *([] if "--dry-run" in words else ["--dry-run"])], standalone_mode=False) == 0
    assert asked["ray"] == address and "1 cells" in capsys.readouterr().out


def test_what_is_begun_after_a_run_is_over_is_left(tmp_path, monkeypatch):
    """Ray begins what waited, whoever has stopped meanwhile; to cancel it would now and then end the driver."""
    monkeypatch.setattr(nodes, "_gpus", lambda: False)
    made, store = plan(**STUDY), Store(tmp_path / "store")
    (source,) = (stage for stage in made.stages.values() if stage.kind == "teacher" and "badnets" not in stage.label)
    with store.leased(["0" * 32]) as (key,):
        setting = setting_of(store, key, torch.get_num_threads(), "run")
        assert there(setting, "cpu", None, [source])["state"] == "done"
    unseen = there(setting, "cpu", None, [source])
    assert unseen == there(setting, "cpu", None, [source, source], unseen)[0] == Unseen(platform.node(), store.root)
    assert store.keys() == [source.key]
