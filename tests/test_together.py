"""Students of one teacher, taught in turns: each has the bits of its own run, and the teacher is asked once."""

from __future__ import annotations

import copy
from importlib import import_module

import pytest
import torch
from tests.study_fixture import of_kind, plan
from tests.training_fixture import FAST, bits, images, net, same
from torch import nn

from distrust.errors import BadInput
from distrust.flags import flag
from distrust.methods import distillers
from distrust.registry import Method
from distrust.seeds import rng
from distrust.study import Store, run
from distrust.study.order import Queue
from distrust.study.work import product, together, work
from distrust.training import Teacher, distill, lesson

LAYERS = {"layers": ["0", "3"]}
TAUGHT = {
    "kd": (distillers.kd, {}),
    "at": (distillers.at, LAYERS),
    "fitnet": (distillers.fitnet, LAYERS),
    "overhaul": (distillers.overhaul, LAYERS),  # its teacher is in train mode
    "rkd": (distillers.rkd, {}),
    "two stages": (distillers.at, LAYERS | {"warmup": 0.5}),
    "longer": (distillers.kd, {"epochs": 3}),
}


class Counted(nn.Module):
    """A network that counts how often it is asked for an answer."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.asked = inner, []

    def forward(self, x):
        if len(x) > 2:  # fewer are a look at shapes
            self.asked.append(len(x))
        return self.inner(x)

    def __deepcopy__(self, memo):
        twin = Counted(copy.deepcopy(self.inner, memo))
        twin.asked = self.asked
        return twin


def options(name):
    loss, more = TAUGHT[name]
    return {"loss": loss, **FAST, "epochs": 2, "lr": 1e-3, **more}


def in_turns(runs):
    made, runs = {}, dict(enumerate(runs))
    while runs:
        for at, one in list(runs.items()):
            try:
                next(one)
            except StopIteration as end:
                made[at] = end.value
                del runs[at]
    return [made[at] for at in sorted(made)]


@pytest.mark.filterwarnings("ignore::distrust.flags.Flag")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_lessons_in_turns_have_the_bits_of_lessons_alone(dropout):
    train, teacher = images(), net(seed=1)
    alone = [distill(net(dropout=dropout), teacher, train, rng=rng("in turns"), **options(name)) for name in TAUGHT]
    shared = Teacher(teacher)
    state = torch.get_rng_state()
    made = in_turns(
        lesson(net(dropout=dropout), shared, train, rng=rng("in turns"), **options(name)) for name in TAUGHT
    )
    assert torch.equal(torch.get_rng_state(), state)
    for name, ours, theirs in zip(TAUGHT, made, alone, strict=True):
        assert same(bits(ours), bits(theirs)), name
        assert not ours.training
    assert not same(bits(made[0]), bits(made[1]))


def test_one_answer_of_the_teacher_is_enough_for_all_who_see_the_same_batch():
    train, teacher = images(), Counted(net(seed=1))
    names = ["kd", "rkd", "kd", "rkd"]
    in_turns([lesson(net(), one, train, rng=rng(0), **options(n)) for one in [Teacher(teacher)] for n in names])
    assert teacher.asked == [16] * 6, "three batches in each of two epochs"
    teacher.asked.clear()
    others = [lesson(net(), one, train, rng=rng(n), **options("kd")) for one in [Teacher(teacher)] for n in range(2)]
    in_turns(others)
    assert len(teacher.asked) == 12, "other generators draw other batches"


def test_a_lesson_alone_keeps_nothing_that_the_teacher_said():
    shared = Teacher(net(seed=1))
    run = lesson(net(), shared, images(), rng=rng(0), **options("kd"))
    next(run), next(run)
    (followed,) = shared.copies.values()
    assert not followed.said


def test_a_lesson_refuses_what_distill_refuses():
    with pytest.raises(BadInput, match="outside \\[0, 1\\)"):
        next(lesson(net(), Teacher(net()), images(), loss=distillers.kd, warmup=2))


# in a study

GRID = {"distiller": ["kd", "at", "fitnet", "rkd"], "attack": "badnets", "seeds": 1}


def students(made):
    return list(of_kind(made, "student"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The store of a grid whose stages are carried out one by one."""
    made, folder = plan(**GRID), tmp_path_factory.mktemp("alone")
    for stage in made.stages.values():
        work([stage], str(folder))
    return folder


def test_a_study_teaches_students_of_one_teacher_in_turns(tmp_path, alone, monkeypatch):
    sizes, made = [], plan(**GRID)
    monkeypatch.setattr(
        import_module("distrust.study.runner"),
        "work",
        lambda stages, *rest: sizes.append(len(stages)) or work(stages, *rest),
    )
    heard = []
    outcome = run(made, Store(tmp_path), tell=lambda event, stage, record: heard.append((event, stage.key)))
    assert sorted(sizes)[-2:] == [4, 4], "four students of the attacked teacher, four of its control"
    assert outcome.ran == sum(sizes) == len(made.stages) and not outcome.failed
    assert {key for event, key in heard if event == "done"} == {key for event, key in heard if event == "start"}
    for stage in students(made):
        ours, theirs = (product(stage, Store(store)) for store in (tmp_path, alone))
        assert same(bits(ours), bits(theirs)), stage.label
        ours, theirs = (Store(store).record(stage.key) for store in (tmp_path, alone))
        assert ours.keys() == theirs.keys() and ours["flags"] == theirs["flags"]


def test_one_that_fails_or_is_flagged_leaves_the_others_alone(tmp_path, alone, monkeypatch):
    made, store = plan(**GRID), Store(tmp_path)

    def failing(student, teacher, y, **options):
        flag("attention-dead")
        raise ArithmeticError("the loss is nan")

    failing.method = distillers.at.method
    real = Method.made
    monkeypatch.setattr(Method, "made", lambda m, given: failing if m.name == "at" else real(m, given))
    outcome = run(made, store)
    assert outcome.failed >= 2
    for stage in students(made):
        record = store.record(stage.key)
        if "distillers/at" in str(stage.call):
            assert record["state"] == "failed" and record["error"] == "ArithmeticError: the loss is nan"
            assert record["flags"] == ["attention-dead"]
        else:
            assert record["state"] == "done" and "attention-dead" not in record["flags"]
            assert same(bits(product(stage, store)), bits(product(stage, Store(alone))))


@pytest.mark.parametrize("free, sizes", [(1, [4]), (2, [2, 2]), (3, [2, 1, 1]), (4, [1, 1, 1, 1]), (9, [1, 1, 1, 1])])
def test_free_processes_share_the_students_of_a_teacher(free, sizes):
    group = students(plan(**GRID | {"attack": "none"}))
    assert len(group) == 4 and len({together(stage) for stage in group}) == 1
    queue, taken = Queue({stage.key: stage for stage in group}), []
    while queue:
        taken.append(queue.take(max(free - len(taken), 1)))
    assert [len(part) for part in taken] == sizes
    assert [stage for part in taken for stage in part] == group


def test_students_of_other_teachers_seeds_or_images_are_not_taught_together():
    made = plan(**GRID | {"seeds": 2})
    assert len({together(stage) for stage in students(made)}) == 4, "attacked and control, two seeds"
    others = [stage for stage in made.stages.values() if stage.kind != "student"]
    assert others and all(together(stage) is None for stage in others)


def test_a_stage_waits_for_its_parents_and_is_looked_at_once_for_each():
    made = plan(**GRID | {"seeds": 3})
    queue, done, looks = Queue(made.stages), [], 0
    while queue:
        for stage in queue.take(1):
            assert all(parent.key in done for parent in stage.parents)
            done.append(stage.key)
            looks += len(queue.children[stage.key])
            queue.release(stage)
    assert sorted(done) == sorted(made.stages)
    assert looks == sum(len(stage.parents) for stage in made.stages.values())
