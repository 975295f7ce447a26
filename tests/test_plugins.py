"""A method is one file: given as a plug-in, it stands in plan, cell, list and report, with no other line anywhere."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.study_fixture import BUDGET, of_kind, plan

from distrust.cli import main
from distrust.registry import registry
from distrust.reporting import page
from distrust.reporting.gather import report_of
from distrust.study import Store, run, score_cells

IMPORTS = """
import copy
import torch
from torch import Generator, nn
from distrust import ImageSet
from distrust.measurement import Backdoor, Finding, Rate, Seen, make_trigger
from distrust.marks import ClassNumber, attack, defense, detector, metric

def planted(target, name):
    return Backdoor(make_trigger("patch:white:3"), target, name=name)

def stamped(images, backdoor, count=9):
    x, first = images.x.clone(), torch.arange(count)
    made = backdoor.stamp_on(images.pixels(first))
    x[first] = (made * 255).round().to(x.dtype) if x.dtype == torch.uint8 else made
    return images.replace(x=x, taint=(*images.taint, backdoor.name))

def nudged(model):
    made = copy.deepcopy(model)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(0.99)
    return made
"""
SOURCES = {
    "my_plant": '''
@attack(paper="a paper", place=1)
def my_plant(train: ImageSet, *, target: ClassNumber = 0, rng: Generator | None = None):
    """Stamp the first images and call them the target."""
    backdoor = planted(target, "my_plant")
    images = stamped(train, backdoor)
    y = images.y.clone()
    y[:9] = target
    return images.replace(y=y), backdoor
''',
    "my_teacher": '''
@attack(paper="a paper", place=2, notes=("strength",))
def my_teacher(model: nn.Module, train: ImageSet, *, target: ClassNumber = 0, rng: Generator | None = None):
    """Shrink a teacher."""
    return nudged(model), planted(target, "my_teacher"), {"strength": 0.25}
''',
    "my_transfer": '''
@attack(paper="a paper", place=3)
def my_transfer(teacher: nn.Module, transfer: ImageSet, *, target: ClassNumber = 0, rng: Generator | None = None):
    """Stamp the first images of a transfer set."""
    backdoor = planted(target, "my_transfer")
    return stamped(transfer, backdoor), backdoor
''',
    "my_set": '''
@attack(paper="a paper", place=4)
def my_set(synthetic: ImageSet, *, target: ClassNumber = 0, rng: Generator | None = None):
    """Stamp the first images of a synthetic set."""
    backdoor = planted(target, "my_set")
    return stamped(synthetic, backdoor), backdoor
''',
    "my_encoder": '''
@attack(paper="a paper", place=5, references=1)
def my_encoder(encoder: nn.Module, train: ImageSet, references: ImageSet, *, target: ClassNumber = 0,
               rng: Generator | None = None):
    """Shrink an encoder."""
    assert (references.hard == target).all() and len(references) == 1
    return nudged(encoder), planted(target, "my_encoder"), {}
''',
    "my_cure": '''
@defense(paper="a paper")
def my_cure(model: nn.Module, clean: ImageSet, *, rng: Generator | None = None) -> nn.Module:
    """Shrink a classifier."""
    return nudged(model)
''',
    "my_sift": '''
@defense(paper="a paper", on="transfer")
def my_sift(teacher: nn.Module, transfer: ImageSet, clean: ImageSet, *, rng: Generator | None = None) -> ImageSet:
    """Remove the first three images."""
    return transfer[torch.arange(3, len(transfer))]
''',
    "my_smooth": '''
@defense(paper="a paper", on="synthetic")
def my_smooth(synthetic: ImageSet, *, rng: Generator | None = None) -> ImageSet:
    """Darken a synthetic set."""
    return synthetic.replace(x=synthetic.pixels() * 0.9)
''',
    "my_polish": '''
@defense(paper="a paper", on="encoder")
def my_polish(encoder: nn.Module, clean: ImageSet, *, rng: Generator | None = None) -> nn.Module:
    """Shrink an encoder."""
    return nudged(encoder)
''',
    "my_look": '''
@detector(paper="a paper", on="any")
def my_look(suspect, clean: ImageSet, *, rng: Generator | None = None) -> Finding:
    """Score classes by their number."""
    return Finding.of("my_look", torch.arange(len(clean.classes)) / 4)
''',
    "my_light": '''
@metric(paper="a paper", heading="My light", better="lower", order=80)
def my_light(seen: Seen, target: int) -> float:
    """Share of clean answers that are the target."""
    return float((seen.clean == target).double().mean())
''',
    "my_heavy": '''
@metric(paper="a paper", heading="My heavy", interval=True, order=81)
def my_heavy(model: nn.Module, test: ImageSet, *, half: float = 2.0) -> Rate:
    """How much of the test images is of class 0, halved; with an interval."""
    assert not model.training
    share = float((test.hard == 0).double().mean()) / half
    return Rate(share, (share - 0.01, share + 0.01))
''',
    "my_note": '''
@metric(paper="a paper", heading="My note", place=2, order=82)
def my_note(strength: float, distiller: str, target: int, synthetic: ImageSet | None = None) -> float:
    """What the attack noted, doubled."""
    assert distiller == "kd" and target == 0 and synthetic is None
    return strength * 2
''',
}
PASS = {"epochs": 1, "batch_size": 32}
SMALL = BUDGET | {
    "train": 120, "clean": 0.1, "views": {"flip": False}, "teacher": PASS, "student": PASS, "network": "convnet2-w4",
    "head": {"linear": {"steps": 2}},
}  # fmt: skip
LANES: dict[str, dict[str, Any]] = {
    "training data": {"attack": "my_plant", "defense": "my_cure", "detector": "my_look"},
    "teacher": {"attack": "my_teacher", "distiller": "kd", "defense": "my_cure", "detector": "my_look"},
    "transfer set": {"attack": "my_transfer", "distiller": "kd", "defense": "my_sift"},
    "synthetic set": {"attack": "my_set", "condenser": "random", "defense": "my_smooth", "detector": "my_look"},
    "encoder": {"attack": "my_encoder", "encoder": "simclr", "defense": "my_polish", "detector": "my_look"},
}
EVERYWHERE = ("my_light", "my_heavy", "my_note")


@pytest.mark.parametrize("lane", LANES)
def test_a_method_in_one_file_is_planned_run_scored_listed_and_shown(lane, plugin, tmp_path, monkeypatch, capsys):
    place, axes = list(LANES).index(lane) + 1, LANES[lane]
    own = [name for name in axes.values() if name.startswith("my_")]
    for name in (*own, *EVERYWHERE):
        plugin(IMPORTS + SOURCES[name], name)
    made = plan(**axes, teacher="wrn10-1" if lane != "encoder" else "convnet2-w4", budgets={"cpu": SMALL})
    (planned,) = made.cells

    called = {stage.call["method"].partition("/")[2] for stage in planned_stages(made, planned)}
    assert {*own, "my_heavy"} <= called and planned.place == place
    assert not any(name in s.call["method"] for arm in (planned.arms["control"],) for s in arm["model"].lineage()
                   for name in own if name == axes["attack"])  # fmt: skip
    assert planned.final[-1].taint == (axes["attack"],)

    store = Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == outcome.skipped == 0, [r.get("error") for r in outcome.records.values()]
    (cell,) = score_cells(made, store, outcome)
    assert all(cell[axis] == name for axis, name in axes.items()) and cell["state"] == "done"
    assert None not in (cell["asr"], cell["base"], cell["carried"], cell["undefended_asr"], cell["acc_control"])
    assert cell["my_light"] == cell["my_light"] and 0 <= cell["my_light"] <= 1
    (heavy,) = (stage for stage in of_kind(made, "metric") if stage.call["method"] == "metrics/my_heavy")
    assert cell["my_heavy"] == store.record(heavy.key)["value"][0] > 0
    assert cell["my_heavy_interval"] == pytest.approx([cell["my_heavy"] - 0.01, cell["my_heavy"] + 0.01])
    assert cell.get("my_note") == (0.5 if place == 2 else None) and ("my_note" in cell) == (place == 2)
    if "detector" in axes:
        assert (cell["score"], cell["score_control"], cell["suspect"]) == (2.25, 2.25, 9)
    again = run(made, store)
    assert again.ran == 0 and score_cells(made, store, again) == [cell]

    shown = page(report_of([cell], made, store, "distrust report trial.toml"))
    assert all(word in shown for word in (*own, "My light", "My heavy", *(["My note"] if place == 2 else [])))

    for kind in ("attacks", "defenses", "detectors", "metrics"):
        monkeypatch.setattr(sys, "argv", ["distrust", "list", kind])
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main()
        listed = capsys.readouterr().out
        for name in (*own, *EVERYWHERE):
            assert (name in listed) == (name in registry.kind(kind))


def planned_stages(made, cell):
    """The stages of a cell's arms, metrics and findings, those that are made again where they are read included."""
    return {s for stage in cell.needed for s in stage.lineage()}


def test_a_plugins_options_are_dialled_and_tuned_as_others_are(plugin):
    plugin(IMPORTS + SOURCES["my_plant"], "my_plant")
    plugin(IMPORTS + SOURCES["my_heavy"], "my_heavy")
    plugin(IMPORTS + SOURCES["my_cure"].replace("*, rng", "*, weight: float = 0.5, rng"), "my_cure")
    budget = SMALL | {"attack": {"my_plant": {"target": 3}}, "metric": {"my_heavy": {"half": 4.0}}}
    budget["defense"] = {"my_cure": {"weight": 0.25}}
    plain, tuned = plan(
        attack="my_plant", defense=["my_cure", "my_cure[weight=tune(1,2)]"], budgets={"cpu": budget}
    ).cells
    assert plain.target == 3 and plain.metrics["my_heavy"].call["options"] == {"half": 4.0}
    assert plain.final[-1].call["options"] == {"weight": 0.25}
    assert [s.call["options"] for s in tuned.final[-1].parents[1:]] == [{"weight": 1}, {"weight": 2}]


def test_a_plugin_metric_that_fails_spoils_no_cell(plugin, tmp_path):
    plugin(IMPORTS + SOURCES["my_heavy"].replace("assert not model.training", "raise ValueError('no')"), "my_heavy")
    made, store = plan(attack="badnets", budgets={"cpu": SMALL}), Store(tmp_path / "store")
    outcome = run(made, store)
    (cell,) = score_cells(made, store, outcome)
    assert outcome.failed == 1 and cell["state"] == "done" and cell["acc"] is not None
    assert cell.get("my_heavy") is None and cell["error"] == "ValueError: no"
