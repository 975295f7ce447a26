"""The graph of a plan: which stages there are, what each takes from which, and what arms and cells share."""

from __future__ import annotations

import pytest
from tests.study_fixture import BUDGET, of_kind, options, plan, two_classes

from distrust.data import ImageSet
from distrust.errors import BadInput, NotFound
from distrust.study import Store
from distrust.study.estimate import cost_of
from distrust.study.plan import look, make_plan
from distrust.study.spec import read_study
from distrust.study.work import product


def model(cell, arm="ours"):
    """The model of an arm."""
    return cell.arms[arm]["model"]


def kinds(cell):
    return [stage.kind for stage in cell.final]


def network(stage):
    return options(stage)["network"]


# arms


def test_parents_come_before_their_children():
    done = set()
    for key, stage in plan(attack="badnets", distiller="kd", defense="nad[lr=tune(0.1,0.01)]").stages.items():
        assert {p.key for p in stage.parents} <= done and stage.kept
        done.add(key)


def test_the_control_arm_is_the_clean_study_with_the_same_seed():
    made = plan(attack=["none", "badnets"], distiller="kd", defense="finetune", seeds=2)
    for seed in (0, 1):
        clean, attacked = (c for c in made.cells if c.seed == seed)
        assert model(attacked, "control") is clean.final[-1]
        assert model(attacked, "teacher_control") is clean.final[0]
        assert [s.taint for s in attacked.final] == [("badnets",)] * 3
        assert [s.taint for s in clean.final] == [()] * 3
        seen = [stage for pair in attacked.seen.values() for stage in pair]
        assert {s.seed for s in (*attacked.final, *seen)} == {seed}
        (planted,) = {pair[1].inputs["backdoor"] for pair in attacked.seen.values()}
        assert planted is attacked.final[0].inputs["train"], "the same trigger"
        assert (attacked.place, attacked.target) == (1, 0) and (clean.place, clean.target) == (None, None)
        assert model(attacked, "undefended") is attacked.final[1]
        assert clean.seen["ours"][1] is None and attacked.seen["control"][0] is clean.seen["ours"][0]


def test_an_attack_changes_nothing_but_the_attack():
    attacked, clean = (c.final[0] for c in plan(attack=["badnets", "none"]).cells)
    assert attacked.call == clean.call and attacked.seed == clean.seed
    assert attacked.inputs["train"].inputs == {"train": clean.inputs["train"]}


def test_an_attack_on_the_teacher_starts_from_the_controls_teacher_and_lends_it_its_trigger():
    (cell,) = plan(attack="cheatkd", distiller="kd", defense="finetune").cells
    teacher, planted, student, defended = cell.final
    assert kinds(cell) == ["teacher", "attack", "student", "defense"]
    assert teacher.taint == () and {s.taint for s in cell.final[1:]} == {("cheatkd",)}
    assert model(cell, "teacher") is planted and model(cell, "teacher_control") is teacher
    assert cell.seen["teacher_control"][1].parents == (teacher, planted)
    assert cell.seen["ours"][1].parents == (defended, planted) and cell.seen["ours"][0].parents == (defended,)
    control = cell.seen["control"][1]
    assert control.parents[1] is planted and control.parents[0].parents[0].parents == (teacher,)
    assert (cell.place, cell.target) == (2, 0) and student.parents == (planted,)


def test_a_poisoned_transfer_set_lies_between_a_clean_teacher_and_its_student():
    (cell,) = plan(attack="transfer_poison", distiller="kd", defense="consistency").cells
    teacher, poison, sift, student = cell.final
    assert kinds(cell) == ["teacher", "poison", "sift", "student"]
    assert teacher.taint == () and {s.taint for s in cell.final[1:]} == {("transfer_poison",)}
    assert poison.parents == (teacher,) and sift.parents == (teacher, poison) and student.parents == (teacher, sift)
    assert cell.seen["ours"][1].parents == (student, poison)
    assert model(cell, "teacher") is model(cell, "teacher_control") is teacher
    assert cell.seen["teacher"] == cell.seen["teacher_control"]
    control, lent = cell.seen["control"][1].parents
    assert lent is poison and control.taint == () and [s.kind for s in control.parents] == ["teacher", "sift"]
    assert control.parents[1].parents == (teacher,)
    assert model(cell, "undefended").parents == (teacher, poison) and (cell.place, cell.target) == (3, 0)


def test_students_on_clean_images_do_not_know_of_transfer_sets():
    (clean,) = plan(distiller="kd").cells
    (attacked,) = plan(attack="transfer_poison", distiller="kd").cells
    assert model(attacked, "control").key == clean.final[-1].key


def test_a_condensed_set_has_no_teacher_and_its_control_shares_it():
    (cell,) = plan(attack="stamp", condenser="random", defense="finetune").cells
    condense, poison, victim, defended = cell.final
    assert kinds(cell) == ["condense", "poison", "victim", "defense"]
    assert condense.taint == () and {s.taint for s in cell.final[1:]} == {("stamp",)}
    assert poison.parents == (condense,) and victim.parents == (poison,) and defended.parents == (victim,)
    archetypes = cell.metrics["asr_archetypes"].inputs["archetypes"]
    assert archetypes is cell.metrics["base_archetypes"].inputs["archetypes"], "drawn once"
    assert archetypes.parents == (condense,) and archetypes.taint == ()
    clean, lent = cell.seen["control"][1].parents
    assert lent is poison and clean.taint == () and clean.parents[0].parents == (condense,)
    assert cell.seen["undefended"][1].parents == (victim, poison)
    assert (cell.place, cell.target) == (4, 0) and "teacher" not in cell.arms
    assert cell.axes["teacher"] == "none" and cell.axes["condenser"] == "random" and cell.axes["student"] == "convnet3"


def test_a_detector_of_models_gets_the_defenders_images():
    (cell,) = plan(attack="badnets", detector="neural_cleanse").cells
    looks = list(cell.findings.values())
    assert list(cell.findings) == ["finding", "finding_control"]
    assert [[s.kind for s in look.parents] for look in looks] == [["teacher"]] * 2
    assert [options(look.inputs["clean"])["role"] for look in looks] == ["clean"] * 2


def test_images_may_be_poisoned_before_they_are_condensed():
    (cell,) = plan(attack="badnets", condenser="random", student="convnet2").cells
    condense, victim = cell.final
    assert condense.taint == victim.taint == ("badnets",)
    assert condense.inputs["train"].call["method"] == "attacks/badnets"
    assert model(cell, "control").parents[0].inputs["train"].kind == "images" and cell.place == 1


def test_a_teacher_may_move_to_other_images():
    (cell,) = plan(images="digits>gtsrb[size=8]", attack="cheatkd", distiller="kd").cells
    assert kinds(cell) == ["teacher", "attack", "transfer", "student"]
    taken = [next(s for s in stage.inputs.values() if s.kind == "images") for stage in cell.final]
    assert [options(s)["source"] for s in taken] == ["digits", "digits", "gtsrb", "gtsrb"]
    assert model(cell, "teacher").kind == "transfer"
    assert options(cell.seen["ours"][1].inputs["test"])["source"] == "gtsrb"
    (cell,) = plan(images="digits>gtsrb", attack="badnets", distiller="kd").cells
    (learnt,) = cell.seen["ours"][1].inputs["backdoor"].inputs.values()
    assert options(learnt)["source"] == "digits", "the trigger is the one that the teacher learnt"


def test_what_takes_nothing_of_the_suspect_is_made_once_for_both_arms():
    blind, other = plan(encoder="simclr", attack="badencoder", defense=["scratch", "finetune_ssl"]).cells
    made, changed = (next(stage for stage in cell.final if stage.kind == "defense") for cell in (blind, other))
    assert [parent.kind for parent in made.parents] == ["pretrain"] and made.taint == blind.final[-1].taint == ()
    assert blind.seen["ours"] == blind.seen["control"], "the same head under the same trigger"
    assert [parent.kind for parent in changed.parents] == ["attack"] and other.seen["ours"] != other.seen["control"]
    assert changed.taint == other.final[-1].taint == ("badencoder",)


def test_features_for_a_picture_are_kept_of_the_first_seed_only():
    made = plan(attack=["none", "cheatkd"], embed=20, seeds=2, distiller="kd")
    assert [c.embed is not None for c in made.cells] == [False, False, True, False]


# the defender's images


def test_a_defence_may_get_another_share_of_clean_images():
    held = {"cpu": {"held": 0.2}}
    own, usual = plan(attack="badnets", defense=["finetune[clean=0.2]", "finetune"], budgets=held).cells
    shares = [options(cell.final[-1].inputs["clean"])["share"] for cell in (own, usual)]
    assert shares == [0.2, 0.05] and own.axes["defense"] == "finetune[clean=0.2]"
    assert own.final[0] is usual.final[0]
    assert own.final[-1].call == usual.final[-1].call, "it is no option of the method"
    for wrong in ("finetune[clean=0.06]", "finetune[clean=[[0.01]]]", "finetune[clean=0]"):
        with pytest.raises(BadInput, match=r"clean is a share of the training split, of which 0\.05 is held"):
            plan(defense=wrong)


def test_a_defence_may_get_images_of_another_source_of_the_same_classes(tmp_path):
    ours, theirs = two_classes(tmp_path / "ours"), two_classes(tmp_path / "theirs")
    texts = [f'finetune[clean="{theirs}",lr=tune(0.1,0.05)]', "finetune[lr=tune(0.1,0.05)]"]
    attacked = {"attack": "badnets[trigger=patch:white:2]", "images": [str(ours)], "defense": texts}
    made = plan(**attacked, budgets={"cpu": {"clean": 0.5, "validation": 0.2}})
    cleaned, usual = (cell.final[-1] for cell in made.cells)
    for chosen, source in ((cleaned, theirs), (usual, ours)):
        given = chosen.inputs["candidate0"].inputs["clean"], chosen.inputs["validation"]
        assert [options(stage)["source"] for stage in given] == [str(source)] * 2
        assert [options(stage)["role"] for stage in given] == ["train" if source == theirs else "clean", "validation"]
    assert options(made.cells[0].arms["ours"]["test"])["source"] == str(ours), "what is measured stays"
    assert cleaned.inputs["candidate0"].call == usual.inputs["candidate0"].call, "it is no option of the method"
    look(made)
    other = plan(**attacked | {"defense": "finetune[clean=digits]"})
    with pytest.raises(BadInput, match=r"clean=digits has 10 classes, and .*ours, whose 2 .* Give images of the same"):
        look(other)
    with pytest.raises(NotFound, match="much"):
        look(plan(**attacked | {"defense": "finetune[clean=much]"}))


def test_what_cleans_encoders_and_classifiers_stands_where_there_is_one():
    (model,) = plan(attack="badnets", defense="clp").cells
    (encoder,) = plan(attack="badencoder", encoder="simclr", student="linear", defense="clp").cells
    for cell, kind, suspect in ((model, "classifier", "teacher"), (encoder, "encoder", "attack")):
        (cleaned,) = (stage for stage in cell.final if stage.call["method"] == "defenses/clp")
        assert cell.cleans == kind and cleaned.inputs["encoder"].kind == suspect
    (student,) = plan(attack="badnets", distiller="kd", defense="clp[at=teacher]").cells
    assert [stage.kind for stage in student.final].index("defense") == 1


def test_shares_of_clean_images_lie_in_each_other_and_apart_from_the_training_images(tmp_path):
    def rows(share, role) -> set[int]:
        (cell,) = plan(defense=f"finetune[clean={share}]", budgets={"cpu": {"held": 0.2}}).cells
        teacher, defended = cell.final
        made: ImageSet = product({"train": teacher, "clean": defended}[role].inputs[role], Store(tmp_path))
        return set(made.index.tolist())

    few, more, most = (rows(share, "clean") for share in (0.05, 0.1, 0.2))
    assert few < more < most and [len(r) for r in (few, more, most)] == [67, 135, 269]
    assert rows(0.05, "train") == rows(0.2, "train") and not most & rows(0.2, "train")


# what is tuned, and what a budget dials


def test_a_tuned_defence_is_chosen_among_its_candidates():
    (cell,) = plan(attack="badnets", defense="finetune[lr=tune(0.1,0.01),epochs=tune(1,2)]").cells
    choose = cell.final[-1]
    assert choose.kind == "choose" and options(choose)["within"] == 0.05
    assert options(choose)["candidates"] == [
        {"lr": 0.1, "epochs": 1},
        {"lr": 0.1, "epochs": 2},
        {"lr": 0.01, "epochs": 1},
        {"lr": 0.01, "epochs": 2},
    ]
    suspect, *candidates = choose.parents
    assert suspect is cell.final[0] and choose.spare == {c.key for c in candidates}
    chosen = [{k: options(c)[k] for k in ("lr", "epochs")} for c in candidates]
    assert chosen == options(choose)["candidates"]


def test_the_budget_dials_the_method_that_it_names():
    budgets = {"cpu": BUDGET | {"defense": {"finetune": {"epochs": 3}}}}
    made = plan(defense=["finetune", "none", "finetune[epochs=7]", "nad"], budgets=budgets)
    found = [options(cell.final[-1])["epochs"] for cell in made.cells if cell.axes["defense"] != "none"]
    assert found == [3, 7, plan(defense="nad").cells[0].final[-1].call["options"]["epochs"]] and found[2] != 3


def test_the_budget_dials_the_condensers_and_the_network_that_is_the_same():
    dials = {"dm": {"network": "convnet2-w4", "iterations": 3}}
    budget = BUDGET | {"condenser": dials, "network": "convnet1-w8", "student": {"epochs": 7}}
    made = plan(condenser=["random", "dm", "dm[network=convnet1-w4]"], budgets={"cpu": budget})
    assert [c.axes["student"] for c in made.cells] == ["convnet1-w8", "convnet2-w4", "convnet1-w4"]
    condense, victim = made.cells[1].final
    assert options(condense)["iterations"] == 3 and options(victim)["training"] == {"epochs": 7}


def test_the_budget_dials_the_attacks_too():
    budgets = {"cpu": BUDGET | {"attack": {"cheatkd": {"epochs": 3}, "implant": {"epochs": 5}}}}
    made = plan(attack=["cheatkd", "badnets", "implant[epochs=7]"], budgets=budgets)
    asked = [options(cell.arms["ours"]["backdoor"]).get("epochs") for cell in made.cells]
    assert asked == [3, None, 7]
    with pytest.raises(NotFound, match="option of cheatkd 'epoch'.*Did you mean 'epochs'"):
        plan(budgets={"cpu": BUDGET | {"attack": {"cheatkd": {"epoch": 3}}}})


def test_a_distillers_selector_may_change_the_distillation():
    def student(distiller):
        (stage,) = of_kind(plan(distiller=distiller), "student")
        return options(stage)["loss"]["options"], options(stage)["training"]

    loss, training = student("overhaul[teacher_mode=eval,augment=none,epochs=9,weight=0.5]")
    assert loss == {"weight": 0.5}
    assert (training["teacher_mode"], training["epochs"]) == ("eval", 9)
    assert (training["augment"]["flip"], training["augment"]["crop"]) == (False, 0)
    assert student("overhaul")[1]["teacher_mode"] == "train", "what it declares"
    assert student("kd")[1]["teacher_mode"] == "eval" and "warmup" not in student("kd")[1]
    assert student("ab")[1]["warmup"] == 0.5 and student("ab[warmup=0]")[1]["warmup"] == 0
    with pytest.raises(NotFound, match="option of overhaul 'wieght'"):
        plan(distiller="overhaul[wieght=1]")


# nothing is made twice


def test_a_model_is_asked_once_clean_and_once_under_each_trigger():
    attacks = ["badnets", "badnets[rate=0.2]", "blend", "cheatkd"]
    made = plan(attack=attacks, distiller="kd", defense=["none", "finetune"])
    asked = [stage.inputs["model"].key for stage in of_kind(made, "predict")]
    models = {model.key for cell in made.cells for arm in cell.arms for model in [cell.arms[arm]["model"]]}
    assert len(asked) == len(set(asked)) and set(asked) == models
    triggered = [(s.inputs["model"].key, s.inputs["backdoor"].key) for s in of_kind(made, "triggered")]
    assert len(triggered) == len(set(triggered))
    for defended in (False, True):  # the control of all attacks: asked once about clean images, four times in all
        cells = [cell for cell in made.cells if (cell.axes["defense"] != "none") == defended]
        assert len({cell.seen["control"][0] for cell in cells}) == 1
        assert len({cell.seen["control"][1] for cell in cells}) == len(attacks)


def test_heads_of_an_encoder_share_what_it_makes_of_the_images():
    made = plan(encoder="simclr", student=["linear", "knn", "mlp"], attack="badencoder")
    assert [len(list(of_kind(made, kind))) for kind in ("pretrain", "attack", "features", "represent")] == [1, 1, 2, 4]
    assert [len(list(of_kind(made, kind))) for kind in ("head", "predict", "triggered")] == [6, 6, 6]
    heads = {stage.inputs["shown"].key for stage in of_kind(made, "head")}
    assert heads == {stage.key for stage in of_kind(made, "features")}
    for cell in made.cells:
        assert cell.final[-1].kind == "head" and "features" not in kinds(cell)


def test_a_detectors_look_is_shared_by_cells_that_differ_in_nothing_it_sees():
    made = plan(attack=["badnets", "blend"], detector=["random", "neural_cleanse"])
    looks = list(of_kind(made, "detect"))
    assert len(looks) == 2 * 3, "two attacked models, and one control for both"


def test_ten_thousand_cells_are_planned_and_share_what_they_can():
    made = plan(
        attack=f"badnets[rate=[{','.join(f'0.0{i}' for i in range(10))}]]",
        distiller=f"kd[temperature=[{','.join(map(str, range(1, 11)))}]]",
        defense=f"finetune[epochs=[{','.join(map(str, range(1, 11)))}]]",
        seeds=10,
    )
    assert len(made.cells) == len({cell.id for cell in made.cells}) == 10_000
    count = {kind: len(list(of_kind(made, kind))) for kind in ("teacher", "student", "defense", "predict", "triggered")}
    asked = 11 * 10 + 10 * 10 * 10 + 11 * 10 * 10 * 10  # the control is not asked before its defence
    under = 10 * 10 * (1 + 1 + 10 + 100 + 100)  # of each attack and seed: teachers, students, and both defended arms
    assert count == {
        "teacher": 11 * 10, "student": 11 * 10 * 10, "defense": 11 * 10 * 10 * 10,
        "predict": asked, "triggered": under,
    }  # fmt: skip


# estimates


TRAIN = {"teacher", "student", "victim", "pretrain", "transfer", "head", "features", "choose", "archetypes"}


def test_every_stage_of_the_studies_that_come_along_has_a_cost(pytestconfig):
    for file in sorted((pytestconfig.rootpath / "studies").glob("*.toml")):
        made = make_plan(read_study(file))
        for stage in made.stages.values():
            cost = cost_of(stage, 100)
            assert cost >= 0, f"{file.stem}: {stage.label}"
            trains = stage.kind in TRAIN or options(stage).get("epochs")
            assert cost > 0 or not trains, f"{file.stem}: {stage.label}"
            assert cost_of(stage, 1000) >= cost


RETUNED = {"attack": ["none", "badnets"], "defense": ["none", "finetune"]}


def test_a_metric_that_costs_a_training_is_planned_where_it_is_asked_for_and_has_a_backdoor_and_a_defence():
    asked, silent = plan(metrics=["retune[epochs=2,poisoned=3]"], **RETUNED), plan(**RETUNED)
    (stage,) = {*asked.stages.values()} - {*silent.stages.values()}
    assert stage.kind == "metric" and silent.stages.keys() < asked.stages.keys()
    assert stage.call["options"]["epochs"] == 2 and stage.call["options"]["poisoned"] == 3
    (cell,) = (cell for cell in asked.cells if cell.metrics)
    assert cell.axes["attack"] == "badnets" and cell.axes["defense"] == "finetune" and cell.metrics == {"retune": stage}
    ours, control = cell.arms["ours"], cell.arms["control"]
    assert stage.inputs == {
        "model": ours["model"], "clean": ours["clean"], "test": ours["test"], "backdoor": ours["backdoor"],
        "control_model": control["model"],
    }  # fmt: skip
    dialled = {"cpu": {**BUDGET, "metric": {"retune": {"epochs": 2, "poisoned": 3}}}}
    assert plan(metrics="retune", budgets=dialled, **RETUNED).stages.keys() == asked.stages.keys()


@pytest.mark.parametrize(
    "text, error, told",
    [
        ("retun", NotFound, "Did you mean 'retune'"),
        ("retune[epoch=2]", NotFound, "Did you mean 'epochs'"),
        ("retune[poisoned=0]", BadInput, "greater than or equal to 1"),
        ("retune[epochs=[1,2]]", BadInput, "stands for 2 selectors"),
        ("asr", BadInput, "metrics: asr is in every cell that it fits. .*: nuisance, retune"),
    ],
)
def test_what_a_study_asks_for_is_a_metric_that_has_to_be_asked_for(text, error, told):
    with pytest.raises(error, match=told):
        plan(metrics=[text], **RETUNED)
