"""Whole studies of every lane, tiny but real, from a plan to cells and pictures."""

from __future__ import annotations

import re

import pytest
import torch
from tests.study_fixture import BUDGET, of_kind, plan, two_classes

from distrust import metrics, rng
from distrust.registry import Method, registry
from distrust.reporting.answer import answer
from distrust.reporting.gather import pictures_of
from distrust.study import Store, run, score_cells
from distrust.study.codecs import TENSORS
from distrust.study.work import product


def ran(made, store):
    """Run a plan and score it; nothing may fail."""
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    return outcome, score_cells(made, store, outcome)


CONDENSED = {"network": "convnet2-w4", "images_per_class": 1}
SEARCH = {"network": "convnet2-w4", "archetype_steps": 1, "net_steps": 1}
PASS = {"epochs": 1, "batch_size": 32}
ENCODER = BUDGET | {
    "train": 200, "clean": 0.1, "views": {"flip": False}, "teacher": PASS,
    "attack": {"badencoder": PASS | {"trigger": "patch:white:3"}, "ssl_backdoor": {"trigger": "patch:white:3"}},
    "defense": {"mimic": PASS | {"mine_epochs": 1}}, "head": {"linear": {"steps": 2}, "mlp": {"epochs": 1}},
}  # fmt: skip


def test_a_defence_of_a_synthetic_set_stands_before_the_network_and_in_its_control(tmp_path):
    budget = BUDGET | {"student": {"epochs": 1}, "train": 200}
    made = plan(attack="stamp[trigger=patch:white:3]", condenser="random", student="convnet2-w4",
                defense=["range_clip", "smooth"], budgets={"cpu": budget})  # fmt: skip
    condense, poison, sift, victim = made.cells[0].final
    assert [s.kind for s in made.cells[0].final] == ["condense", "poison", "sift", "victim"]
    assert sift.parents == (poison,) and victim.parents == (sift,) and sift.taint == ("stamp",)
    assert made.cells[0].arms["control"]["model"].parents[0].parents == (condense,)
    _, (clipped, smoothed) = ran(made, Store(tmp_path / "store"))
    assert clipped["asr"] == clipped["undefended_asr"], "a legal set does not notice"
    assert "caught" not in smoothed and smoothed["base"] is not None


def test_a_detector_looks_at_the_set_or_the_network_and_at_its_control(tmp_path):
    budget = BUDGET | {"student": {"epochs": 1}, "train": 200}
    probe = {"network": "convnet2-w4", "networks": 1, "epochs": 1, "size": 3}
    budget["detector"] = {"patch_probe": probe, "neural_cleanse": {"steps": 2}}
    made = plan(attack="stamp[trigger=patch:white:3]", condenser="random", student="convnet2-w4",
                detector=["patch_probe", "neural_cleanse", "random"], budgets={"cpu": budget})  # fmt: skip
    probe, search, _ = made.cells
    _, poison, victim = probe.final
    condense = poison.parents[0]
    assert [s.parents for s in probe.findings.values()] == [(poison,), (condense,)]
    ours, control = search.findings.values()
    assert ours.parents == (victim, poison) and control.parents[1] is condense
    assert probe.axes["detector"] == "patch_probe" and probe.findings["finding"].taint == ("stamp",)
    _, cells = ran(made, Store(tmp_path / "store"))
    assert all(c["score"] is not None and c["score_control"] is not None and 0 <= c["suspect"] < 10 for c in cells)
    chance = cells[2]
    assert chance["score"] != chance["score_control"], "each suspect has draws of its own"
    assert cells[0]["acc"] == cells[1]["acc"] and "AUROC" in answer(cells)
    assert re.search(r"one-seed on 1( and [a-z-]+ on 1)? of 1\b", answer(cells)), (
        "three looks at one network are one measurement"
    )


def test_a_study_of_an_attacked_teacher_runs(tmp_path):
    changes = {"attack": ["cheatkd[steps=2,trigger_batch=8,epochs=1,flip=false]"], "distiller": "overhaul", "embed": 16}
    made, store = plan(**changes), Store(tmp_path / "store")
    outcome, (cell,) = ran(made, store)
    assert cell["base"] is not None and cell["carried"] == pytest.approx(cell["asr"] - cell["base"])
    assert "teacher-in-train-mode" in cell["flags"]
    assert all(row["chosen"] == [] for row in cell["mechanism"]), "a student numbers its neurons anew"
    (teacher,) = (r for r in outcome.records.values() if r["kind"] == "attack")
    assert len(teacher["notes"]["loss"]) == 2 and set(teacher["notes"]["neurons"]) == set(teacher["notes"]["delta"])
    assert all(row["run"] <= row["channels"] for row in cell["mechanism"])
    tensors = store.tensors(made.cells[0].embed.key, TENSORS)
    assert len(tensors["clean"]) == 16 and len(tensors["triggered"]) == int((tensors["y"] != 0).sum())


def test_a_study_of_a_poisoned_transfer_set_runs_and_says_what_was_caught(tmp_path):
    attack = "transfer_poison[inset=2,steps=2,rate=0.25]"
    made = plan(attack=attack, distiller="kd", defense=["none", "consistency[lose=0.2]", "strong_augment"])
    store = Store(tmp_path / "store")
    outcome, (none, sifted, changed) = ran(made, store)
    assert none["poison_n"] == 16 and none["poison_share"] == 0.25 and "caught" not in none
    assert 0 <= sifted["caught"] <= 1 and 0 <= sifted["lost"] <= 1 and sifted["poison_hits"] == none["poison_hits"]
    assert sifted["undefended_asr"] == none["asr"]
    assert (changed["caught"], changed["lost"]) == (0, 0), "augmentation removes nothing"
    (poison,) = (key for key, r in outcome.records.items() if r["kind"] == "poison")
    assert len(store.tensors(poison, "images.safetensors")["at"]) == 16
    (control,) = (s for s in made.cells[1].arms["control"]["model"].parents if s.kind == "sift")
    clean = product(control.inputs["transfer"], store)
    found = registry.get("metrics", "sifting").call(clean, clean, product(control, store))
    assert found["caught"] is None and found["lost"] >= 0, "nothing is poisoned there"
    (shown,) = pictures_of(made, store).values()
    assert len(shown["clean"]) == 6 and "of the transfer set" in shown["caption"]


def test_a_study_of_synthetic_sets_runs_and_shows_them(tmp_path):
    budget = BUDGET | {
        "condenser": {"dm": {**CONDENSED, "iterations": 1, "batch_real": 2, "flip": False}},
        "attack": {"poisoned_distillation": {**SEARCH, "outer": 1, "steps": 1}, "append": SEARCH},
        "metric": {"asr_archetypes": SEARCH},
        "student": {"epochs": 2}, "train": 200,
    }  # fmt: skip
    attacks = ["none", *(f"{name}[trigger=patch:white:3]" for name in ("stamp", "poisoned_distillation", "append"))]
    made = plan(condenser="dm", attack=[*attacks, "badnets"], budgets={"cpu": budget})
    store = Store(tmp_path / "store")
    outcome, (clean, stamped, bent, grown, naive) = ran(made, store)
    assert clean["asr"] is None and clean["condenser"] == "dm" and "off-range-images" in clean["flags"]
    assert (stamped["poison_share"], stamped["poison_added"]) == (0.1, 0) and bent["poison_share"] > 0.9
    assert (grown["poison_share"], grown["poison_added"]) == (0.0, 10)
    assert stamped["base"] is not None and naive["place"] == 1 and "poison_share" not in naive
    assert stamped["carry_over"] is None, "there is no teacher"
    assert {10 * c["asr_archetypes"] for c in (stamped, bent, grown)} <= set(
        range(11)
    ) and "asr_archetypes" not in naive
    drawn = made.cells[3].metrics["asr_archetypes"].inputs["archetypes"]
    assert drawn is made.cells[3].metrics["base_archetypes"].inputs["archetypes"]
    added = made.cells[3].arms["ours"]["backdoor"]
    backdoor = product(added, store, "backdoor")
    own = product(added, store).x[-10:]
    assert torch.equal(own, backdoor.stamp_on(product(drawn, store).x)), "its very own"
    victim = outcome.records[made.cells[3].final[-1].key]
    assert victim["kind"] == "victim" and victim["file"] == "model.tainted-append.safetensors"
    shown = pictures_of(made, store)
    assert all("of the synthetic set" in shown[attack]["caption"] for attack in attacks[1:])
    assert len(shown[attacks[3]]["clean"]) == 6 and "of the synthetic set" not in shown["badnets"]["caption"]


def test_a_study_of_encoders_runs_and_measures_heads_on_them(tmp_path):
    made = plan(
        encoder="simclr", teacher="convnet2-w4", student=["linear", "knn", "mlp"], budgets={"cpu": ENCODER},
        attack=["none", "badencoder", "ssl_backdoor"], grid=[{"defense": ["none", "mimic"]}],
    )  # fmt: skip
    store = Store(tmp_path / "store")
    outcome, scored = ran(made, store)
    cells = {(c["attack"], c["student"], c["defense"]): c for c in scored}
    assert len(cells) == 18 and all(c["state"] == "done" and c["encoder"] == "simclr" for c in cells.values())
    bad = cells["badencoder", "knn", "mimic"]
    assert bad["place"] == 5 and None not in (bad["base"], bad["carried"], bad["undefended_asr"], bad["acc_control"])
    assert bad["undefended_asr"] == cells["badencoder", "knn", "none"]["asr"] and bad["carry_over"] is None
    assert "class-missing" not in bad["flags"], "labels are not looked at"
    assert cells["ssl_backdoor", "linear", "none"]["place"] == 1
    kinds = [stage.kind for stage in made.cells[-1].final]
    assert kinds == ["pretrain", "defense", "head"] and "encoder" not in plan().cells[0].axes
    (attack,) = (r for r in outcome.records.values() if r["kind"] == "attack")
    assert (
        attack["label"] == "attack badencoder on the encoder ← badencoder, seed 0" and attack["spec"]["head"] is False
    )
    assert "From a poisoned encoder," in answer(list(cells.values())) or "can be judged" in answer(list(cells.values()))


def test_an_encoder_meets_a_downstream_set_and_a_target_that_this_lacks_fails_by_name(tmp_path):
    downstream = f"digits>{two_classes(tmp_path / 'set')}[channels=3]"
    made = plan(
        encoder="vicreg", teacher="convnet2-w4", images=downstream, attack="badencoder[target=[1,5]]",
        detector=["none", "decree[steps=2]"], budgets={"cpu": ENCODER | {"clean": 0.2, "validation": 0.2}},
    )  # fmt: skip
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    good, found, bad, _ = score_cells(made, store, outcome)
    assert good["state"] == "done" and good["n"] == 20, good["error"]
    assert found["score"] is not None and found["suspect"] is None, "an encoder has no classes"
    assert bad["state"] == "failed" and "has no image of the target, class 5" in bad["error"]


def test_a_defender_without_an_image_of_some_class_is_flagged(tmp_path):
    few = {**BUDGET, "clean": 0.005, "defense": {"finetune": {"epochs": 1, "flip": False}}}
    made, store = plan(defense="finetune", budgets={"cpu": few}), Store(tmp_path / "store")
    (cell,) = score_cells(made, store, run(made, store))
    assert "class-missing" in cell["flags"]


def test_a_transferred_teacher_runs_and_a_target_it_lacks_is_skipped(tmp_path):
    base = {"distiller": "kd", "images": f"digits>{two_classes(tmp_path / 'set')}[channels=3]", "student": "wrn10-1"}
    small = {**BUDGET, "clean": 0.2, "validation": 0.2, "transfer": {"epochs": 1, "batch_size": 8}}
    small["student"] = {"epochs": 1, "batch_size": 8}
    budgets = {"cpu": small}
    made, store = plan(attack="badnets[target=1]", budgets=budgets, **base), Store(tmp_path / "store")
    outcome = run(made, store)
    (cell,) = score_cells(made, store, outcome)
    assert cell["state"] == "done", cell["error"]
    assert [s.kind for s in made.cells[0].final] == ["teacher", "transfer", "student"]
    made = plan(attack="badnets[target=7]", budgets=budgets, **base)
    (cell,) = score_cells(made, store, run(made, store))
    assert cell["state"] == "skipped" and "the target is class 7" in cell["error"]


def test_an_attack_on_training_data_is_not_made_again_for_every_prediction(tmp_path, monkeypatch):
    made, planted = plan(attack="badnets[rate=0.31]", distiller=["kd", "at"], seeds=1), []
    real = Method.made
    monkeypatch.setattr(Method, "made", lambda m, given: planted.append(m.name) or real(m, given))
    run(made, Store(tmp_path))
    asked = [
        stage for stage in of_kind(made, "triggered") if stage.inputs["backdoor"].call["method"].endswith("badnets")
    ]
    assert len(asked) == 6 and planted.count("badnets") == 1


def test_what_a_study_asks_for_is_measured_on_the_cleaned_models_of_both_arms(tmp_path):
    made = plan(attack="badnets", defense="finetune[epochs=1]", metrics="retune[poisoned=3,epochs=1]")
    store = Store(str(tmp_path))
    (cell,) = ran(made, store)[1]
    (planned,) = made.cells
    ours, control = planned.arms["ours"], planned.arms["control"]
    given = [product(ours[name], store, name) for name in ("model", "clean", "test", "backdoor")]
    given += [product(control["model"], store, "model")]
    training = metrics.retune.training.changed(epochs=1)
    found = metrics.retune(*given, poisoned=3, training=training, rng=rng("attack", 0))
    assert {name: cell[name] for name in found} == found and found["base_retune"] is not None
