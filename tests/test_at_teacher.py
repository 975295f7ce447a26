"""Where a defence of classifiers stands: behind the student, or before it with `at=teacher`."""

from __future__ import annotations

import pytest
from tests.study_fixture import BUDGET, DEFENCE, of_kind, options, plan, study

from distrust import purify
from distrust.errors import BadInput
from distrust.measurement.scores import HEAVY
from distrust.registry import registry
from distrust.study import Store, run, score_cells
from distrust.study.plan import Grid

EARLY = ["finetune[at=teacher]", "abl"]


def kinds(cell, arm="ours"):
    """What its model comes from, parents first."""
    return [stage.kind for stage in cell.arms[arm]["model"].lineage() if stage.kept]


def test_a_defence_at_the_teacher_stands_before_the_student_in_both_arms():
    late, early = plan(attack="badnets", distiller="kd", defense=["finetune", "finetune[at=teacher]"]).cells
    assert kinds(late) == ["teacher", "student", "defense"]
    assert kinds(early) == kinds(early, "control") == ["teacher", "defense", "student"]
    teacher, defended, student = early.final
    assert defended.inputs["model"] is teacher and student.inputs["model"] is defended
    assert defended.call == late.final[-1].call, "it is no option of the method"
    assert defended.taint == student.taint == ("badnets",) and early.arms["control"]["model"].taint == ()
    assert early.arms["undefended"]["model"] is late.arms["undefended"]["model"], "of a teacher that was not defended"
    assert late.arms["teacher"]["model"] is teacher and early.arms["teacher"]["model"] is defended
    assert early.arms["teacher_control"]["model"] is early.arms["control"]["model"].inputs["model"]
    assert early.axes["defense"] == "finetune[at=teacher]" and early.cleans == "classifier"


def test_without_a_student_it_is_the_same_defence_of_the_same_teacher():
    (behind,) = plan(attack="badnets", defense="finetune").cells
    (before,) = plan(attack="badnets", distiller="kd", defense="finetune[at=teacher]").cells
    assert behind.final[-1] == before.final[1]


def test_it_stands_behind_an_attack_on_the_teacher_and_is_tuned_on_the_teachers_images():
    defence = "finetune[at=teacher,lr=tune(0.1,0.01),clean=0.02]"
    (cell,) = plan(images="digits>gtsrb[size=8]", attack="cheatkd", distiller="kd", defense=defence).cells
    assert kinds(cell) == ["teacher", "attack", "defense", "defense", "choose", "transfer", "student"]
    attack, one, two, choose = cell.final[1:5]
    assert one.inputs["model"] is two.inputs["model"] is choose.inputs["suspect"] is attack
    for given in (one.inputs["clean"], choose.inputs["validation"]):
        assert options(given)["source"] == "digits"
    assert options(one.inputs["clean"])["share"] == 0.02 and [options(s)["lr"] for s in (one, two)] == [0.1, 0.01]
    assert options(choose)["candidates"] == [{"lr": 0.1}, {"lr": 0.01}]
    assert cell.arms["teacher"]["model"].inputs["model"] is choose and "defense" not in kinds(cell, "undefended")
    assert kinds(cell, "teacher_control") == ["teacher", "defense", "defense", "choose", "transfer"]


def test_a_defence_that_asks_for_the_training_images_gets_the_clean_split_at_either_place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(DEFENCE.replace("clean: ImageSet", "train: ImageSet"))
    monkeypatch.setattr(registry, "_kinds", {kind: dict(own) for kind, own in registry._kinds.items()})
    monkeypatch.setattr(registry, "files", [])
    registry.add(tmp_path / "mine.py")
    for cell in plan(attack="badnets", distiller="kd", defense=["mine", "mine[at=teacher]"]).cells:
        (given,) = (s.inputs["train"] for s in cell.final if s.kind == "defense")
        assert given.kind == "images" and given.taint == ()


def test_what_trains_a_teacher_anew_gets_what_the_teacher_was_trained_on_and_stands_there():
    alone, taught, told = (
        plan(attack="badnets", **more).cells[0]
        for more in ({"defense": "abl"}, {"defense": "abl", "distiller": "kd"},
                     {"defense": "abl[at=teacher]", "distiller": "kd"})
    )  # fmt: skip
    assert kinds(alone) == ["teacher", "defense"] and kinds(taught) == ["teacher", "defense", "student"]
    assert alone.final[1] == taught.final[1] == told.final[1]
    teacher, defended = alone.final
    assert defended.inputs["trained_on"] is teacher.inputs["train"] and defended.inputs["model"] is teacher
    assert defended.inputs["trained_on"].taint == ("badnets",)
    control = alone.arms["control"]["model"]
    assert control.inputs["trained_on"].kind == "images" and control.taint == ()
    assert options(control.inputs["trained_on"])["role"] == "train"
    (moved,) = plan(images="digits>gtsrb[size=8]", attack="badnets", defense="abl").cells
    assert kinds(moved) == ["teacher", "defense", "transfer"]
    assert options(moved.final[1].inputs["trained_on"].inputs["train"])["source"] == "digits"
    assert kinds(moved, "teacher") == kinds(moved, "undefended") == ["teacher", "transfer"]
    assert "trained_on" in HEAVY, "a metric that asks for it is work of its own"


KD = {"attack": "badnets", "distiller": "kd"}
SYNTHETIC = {"condenser": "random", "attack": "stamp", "student": "convnet2"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attack": "badnets", "defense": "finetune[at=teacher]"}, "'none' makes no student. Name a distiller, kd, or"),
        (KD | {"defense": "finetune[at=student]"}, r"at is no place but teacher. Write finetune\[at=teacher\] for"),
        (
            KD | {"defense": "nad[p=3,at=tune(teacher,1)]"},
            r"no place but teacher. Write nad\[p=3,at=teacher\] for .* n",
        ),
        (KD | {"defense": "consistency[at=teacher]"}, "is for defences of classifiers. Write consistency"),
        ({"encoder": "simclr", "defense": "mimic[at=teacher]"}, "is for defences of classifiers. Write mimic"),
        ({"encoder": "simclr", "defense": "nad[at=teacher]"}, "nad works on a classifier, and this is an encoder"),
        (SYNTHETIC | {"defense": "nad[at=teacher]"}, "or write nad"),
        (SYNTHETIC | {"defense": "abl"}, "with a condenser there is no teacher. Name a defence .*: finetune"),
        ({"encoder": "simclr", "defense": "abl"}, "abl works on a classifier, and this is an encoder"),
        ({"attack": "cheatkd", "defense": "abl"}, r"cheatkd poisons none of them: it changes the teacher \(place 2\)"),
        ({"attack": "badnets", "defense": "none", "distiller": "kd[at=teacher]"}, "no option of kd 'at'"),
    ],
)
def test_where_there_is_no_such_place_a_plan_says_what_to_type(changes, message):
    with pytest.raises(Exception, match=message):
        plan(**changes)


def test_a_large_study_is_told_too(monkeypatch):
    monkeypatch.setattr("distrust.study.plan.BLOCK", 4)
    axes = {"attack": ["none", "badnets"], "distiller": ["kd", "none"], "seeds": 3}
    with pytest.raises(BadInput, match="makes no student"):
        assert Grid(study(defense=["finetune", "finetune[at=teacher]"], **axes)).checked
    with pytest.raises(BadInput, match="poisons none of them"):
        assert Grid(study(defense=["nad", "abl"], **axes | {"attack": ["badnets", "blend", "cheatkd"]})).checked


def test_a_checkpoint_has_no_training_images_and_purify_says_so_before_it_opens_one():
    with pytest.raises(
        BadInput, match=r"a model does not bring these along. Name it on a study's defense axis, or call"
    ):
        purify("abl", "nothere.safetensors", images="digits")


def test_defences_of_the_teacher_run_from_end_to_end(tmp_path):
    quick = {"epochs": 1, "batch_size": 16, "flip": False}
    anew = quick | {"isolate": 0.1, "isolation_epochs": 1, "unlearn_epochs": 1}
    budget = BUDGET | {"clean": 0.1, "defense": {"finetune": quick, "abl": anew}}
    axes = {"defense": ["none", *EARLY, "finetune[at=teacher,lr=tune(0.1,0.01)]"], "distiller": "kd"}
    made = plan(grid=[axes, {"defense": "abl"}], attack="badnets[trigger=patch:white:3]", budgets={"cpu": budget})
    outcome = run(made, Store(tmp_path / "store"))
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    none, *defended, alone = score_cells(made, Store(tmp_path / "store"), outcome)
    for cell in defended:
        assert cell["undefended_asr"] == none["asr"] and cell["undefended_acc"] == none["acc"]
        assert cell["base"] is not None and "attack-weak" not in cell["flags"], "a student is not held to it"
        assert cell["keys"]["teacher"] == none["keys"]["teacher"] and cell["keys"]["student"] != none["keys"]["student"]
    assert defended[2]["chosen"] in ({"lr": 0.1}, {"lr": 0.01}) and defended[2]["validation"]["before"] is not None
    assert alone["undefended_asr"] == alone["teacher_asr"] == none["teacher_asr"], "before the defence"
    assert (alone["asr"], alone["acc"]) == (defended[1]["teacher_asr"], defended[1]["teacher_acc"]), "the same teacher"
    assert ("attack-weak" in alone["flags"]) == (none["teacher_asr"] < 0.8), "it is held to its teacher's"
    records = {r["recipe"]["method"]: r for r in outcome.records.values()}
    assert records["defenses/abl"]["state"] == "done"
    assert len([s for s in of_kind(made, "defense") if s.call["method"] == "defenses/abl"]) == 2, "and its control"
