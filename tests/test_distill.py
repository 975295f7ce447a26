from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from tests.training_fixture import CLASSES, FAST, bits, images, net, same
from torch import nn
from torch.nn import functional as F

from distrust.data import PLAIN
from distrust.errors import BadInput, NotFound
from distrust.flags import Flag
from distrust.marks import DistillerMark
from distrust.methods import distillers
from distrust.models import Taps
from distrust.models import model as make_model
from distrust.seeds import rng
from distrust.training import distill, fit, watching

# distill


def nothing(student, teacher, y):
    """A term without a gradient."""
    return student.logits.detach().sum() * 0


def gap(student, teacher, y):
    """Mean squared difference of all features."""
    pairs = zip(student.features.values(), teacher.features.values(), strict=True)
    return sum((a - b).square().mean() for a, b in pairs)


def first_loss(loss, **options):
    """The objective at the first step."""
    seen = []
    with watching(lambda *news: seen.append(news)):
        distill(net(), net(seed=1), images(16), loss=loss, **FAST | options)
    return seen[0][2]


@pytest.mark.parametrize(
    "loss, options, weight",
    [
        (distillers.kd, {}, 0.1),
        (functools.partial(distillers.kd, temperature=2.0), {}, 0.1),
        (functools.partial(functools.partial(distillers.kd, weight=0.5), temperature=2.0), {}, 0.1),
        (functools.partial(distillers.at, weight=1e-3), {"layers": ["0", "3"]}, 1.0),
        (gap, {"layers": ["0"]}, 1.0),
        (distillers.kd, {"label_weight": 0.7}, 0.7),
        (distillers.kd, {"label_weight": 0}, 0.0),
    ],
)
def test_the_weight_of_the_labels_is_the_distillers_unless_given(loss, options, weight):
    without, whole = (first_loss(loss, **options | {"label_weight": w}) for w in (0, 1))
    np.testing.assert_allclose((first_loss(loss, **options) - without) / (whole - without), weight, atol=1e-5)


def test_a_distilled_student_follows_its_teacher():
    options = FAST | {"epochs": 15, "lr": 0.03, "augment": PLAIN}
    train, student = images(96), net(width=8)
    teacher = fit(net(width=8, seed=1), train, **options)
    taught = distill(student, teacher, train, loss=distillers.kd, **options)

    def distance(model):
        with torch.no_grad():
            ours, theirs = model.eval()(train.pixels()).log_softmax(1), teacher(train.pixels()).softmax(1)
        return float(F.kl_div(ours, theirs, reduction="batchmean"))

    assert not taught.training and distance(taught) < 0.3 * distance(copy.deepcopy(student))


def test_distilling_leaves_everything_as_it_was_and_repeats():
    student, teacher, train = net(), net(seed=1), images()
    teacher.train()
    before, stream = (bits(student), bits(teacher)), torch.get_rng_state()
    first = distill(student, teacher, train, loss=distillers.at, layers=["0", "3"], **FAST)
    second = distill(student, teacher, train, loss=distillers.at, layers=["0", "3"], **FAST)
    assert same(bits(student), before[0]) and same(bits(teacher), before[1]) and same(bits(first), bits(second))
    assert teacher.training and all(p.requires_grad for p in teacher.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    assert not any(m._forward_hooks for model in (student, teacher, first) for m in model.modules())


def test_the_teacher_sees_the_students_images_in_float32_features():
    seen = []

    def loss(student: Taps, teacher: Taps, y):
        seen.append((student, teacher))
        return (student.logits - teacher.logits).square().mean()

    model = net()
    distill(model, model, images(16), loss=loss, layers=["0"], **FAST | {"precision": "bf16"})
    student, teacher = seen[0]
    assert {t.dtype for t in (student.logits, teacher.logits, *student.features.values())} == {torch.float32}
    torch.testing.assert_close(student.features["0"], teacher.features["0"])  # the same images
    assert not teacher.logits.requires_grad and student.features["0"].requires_grad


def test_a_mapping_adds_its_terms_pair_by_pair():
    pairs = []

    def part(student, teacher, y):
        pairs.append((list(student.features), list(teacher.features)))
        return gap(student, teacher, y)

    student, teacher = net(), nn.Sequential(nn.Identity(), net(seed=1))
    together = distill(student, teacher, images(16), loss={("0", "1.0"): part, ("3", "1.3"): part}, **FAST)
    assert pairs == [(["0"], ["1.0"]), (["3"], ["1.3"])]
    apart = distill(student, teacher, images(16), loss=gap, layers=(["0", "3"], ["1.0", "1.3"]), **FAST)
    assert same(bits(together), bits(apart))


def test_the_ends_of_the_groups_are_matched_by_themselves():
    seen = []

    def loss(student, teacher, y):
        seen.append((list(student.features), list(teacher.features)))
        return gap(student, student, y) + student.logits.square().mean()

    train = images(8)
    student, teacher = make_model("wrn10-1", train), make_model("wrn16-1", train)
    distill(student, teacher, train, loss=loss, **FAST)
    assert seen == [(["block1", "block2", "block3"], ["block1", "block2", "block3"])]


@pytest.mark.parametrize("layers", [(["0", "3"], ["0"]), (["0"], ["0", "3"])])
def test_layers_that_do_not_pair_are_refused(layers):
    with pytest.raises(BadInput, match="Name the pairs"):
        distill(net(), net(), images(), loss=gap, layers=layers, **FAST)


def test_an_unknown_layer_gets_near_matches():
    train = images(8)
    student = make_model("wrn10-1", train)
    with pytest.raises(NotFound, match=r"'blok2'.*Did you mean .*'block2'"):
        distill(student, student, train, loss={("block1", "blok2"): gap}, **FAST)
    with pytest.raises(NotFound, match="'blok1'"):
        distill(student, student, train, loss=gap, layers=["blok1"], **FAST)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"teacher_mode": "training"}, "teacher_mode='training'"),
        ({"label_weight": -1.0}, "label_weight=-1.0"),
        ({"label_weight": math.nan}, "label_weight=nan"),
        ({"loss": {}}, "empty mapping"),
    ],
)
def test_what_cannot_be_distilled_is_said(options, words):
    with pytest.raises(BadInput, match=words):
        distill(net(), net(), images(), **{"loss": distillers.kd} | options, **FAST)


def test_a_teacher_in_train_mode_is_flagged_and_keeps_its_statistics():
    student, teacher = net(), net(seed=1)
    teacher.eval()
    before = bits(teacher)
    with pytest.warns(Flag, match="teacher-in-train-mode") as caught:
        taught = distill(student, teacher, images(), loss=distillers.kd, teacher_mode="train", **FAST)
    assert [w.message.name for w in caught] == ["teacher-in-train-mode"]
    assert same(bits(teacher), before) and not teacher.training
    assert not same(bits(taught), bits(distill(student, teacher, images(), loss=distillers.kd, **FAST)))


@pytest.mark.filterwarnings("ignore::distrust.flags.Flag")
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_teacher_runs_in_the_mode_that_is_asked_for(mode):
    teacher, seen = net(seed=1), set()
    teacher.train(mode == "eval")  # its own is another
    teacher[0].register_forward_hook(lambda module, *_: seen.add(module.training))  # copies keep it
    distill(net(), teacher, images(), loss=distillers.kd, teacher_mode=mode, **FAST)
    assert (True in seen) == (mode == "train"), "where shapes are looked up it is in eval mode, always"


def test_a_student_larger_than_its_teacher_is_flagged():
    with pytest.warns(Flag, match="larger-student"):
        distill(net(6), net(4), images(16), loss=distillers.kd, **FAST)


def test_a_term_without_a_gradient_is_flagged_once_and_the_labels_go_on():
    with pytest.warns(Flag, match="loss-dead") as caught:
        taught = distill(net(), net(seed=1), images(), loss=nothing, **FAST | {"epochs": 2})
    assert len(caught) == 1
    assert not torch.equal(taught[0].weight, net()[0].weight)


def test_soft_labels_distill():
    distill(net(), net(), images(soft=True), loss=distillers.kd, **FAST)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_every_precision_and_memory_format_runs(precision, memory_format):
    options = FAST | {"precision": precision, "memory_format": memory_format}
    taught = distill(net(), net(seed=1), images(), loss=distillers.at, layers=["0", "3"], **options)
    assert all(p.dtype == torch.float32 and p.is_contiguous() and p.isfinite().all() for p in taught.parameters())


def test_a_distiller_with_connectors_is_trained_along_but_the_callers_is_left_alone():
    class Connected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.connector = nn.Linear(CLASSES, CLASSES, bias=False)

        def forward(self, student, teacher, y):
            watched.append(self.connector.weight.detach().clone())
            return (self.connector(student.logits) - teacher.logits).square().mean()

    watched: list[torch.Tensor] = []
    loss = Connected()
    before = loss.connector.weight.detach().clone()
    distill(net(), net(seed=1), images(), loss=functools.partial(loss), layers=["0"], **FAST)
    assert torch.equal(loss.connector.weight, before)
    assert not torch.equal(watched[0], watched[-1]), "the connector learns too"


class Connected(nn.Module):
    """A distiller with one connector, which notes what it was bound to and folds into the student in the end."""

    def __init__(self):
        super().__init__()
        self.connector = None

    def bind(self, student, teacher, model):
        (ours,), (theirs,) = student.features.values(), teacher.features.values()
        self.connector = nn.Conv2d(ours.shape[1], theirs.shape[1], 1)

    def forward(self, student, teacher, y):
        (ours,), (theirs,) = student.features.values(), teacher.features.values()
        return F.mse_loss(self.connector(ours), theirs)

    def finish(self, student):
        student[-1].bias.data.fill_(7.0)


def test_a_distiller_is_bound_to_the_two_models_and_finishes_the_student():
    student, teacher = net(4), net(6, seed=1)
    first, second = (distill(student, teacher, images(), loss=Connected, layers=["0"], **FAST) for _ in range(2))
    assert same(bits(first), bits(second)), "connectors start from rng"
    assert (first[-1].bias == 7).all() and not torch.equal(first[0].weight, student[0].weight)
    own = Connected()
    distill(student, teacher, images(), loss={("0", "0"): own}, **FAST)
    assert own.connector is None, "the caller's stays as it was"


def test_a_distiller_in_two_stages_follows_its_loss_alone_and_then_the_other():
    calls = []

    def then(student, teacher, y):
        calls.append("then")
        assert student.features == {}
        return F.mse_loss(student.logits, teacher.logits)

    def first(student, teacher, y):
        calls.append("first")
        return F.mse_loss(student.features["0"], teacher.features["0"])

    first.method = training_mark(warmup=0.5, then=then, label_weight=0.0, teacher_mode="train")
    with pytest.warns(Flag, match="teacher-in-train-mode"):
        distill(net(), net(seed=1), images(), loss=first, layers=["0"], **FAST | {"epochs": 4})
    assert calls == ["first"] * 6 + ["then"] * 6
    calls.clear()
    distill(net(), net(seed=1), images(), loss=first, layers=["0"], warmup=0, teacher_mode="eval", **FAST)
    assert calls == ["first"] * 3, "warmup=0 is one stage"
    with pytest.raises(BadInput, match="epochs=1: a distiller in two stages needs one epoch for each"):
        distill(net(), net(seed=1), images(), loss=first, layers=["0"], **FAST)
    with pytest.raises(BadInput, match="warmup=1.0 is outside"):
        distill(net(), net(seed=1), images(), loss=first, layers=["0"], warmup=1.0, **FAST)


def test_without_a_second_loss_the_second_stage_is_the_labels():
    def first(student, teacher, y):
        return F.mse_loss(student.features["0"], teacher.features["0"])

    first.method = training_mark(warmup=0.5)
    both = FAST | {"epochs": 2}
    found = distill(net(), net(seed=1), images(), loss=first, layers=["0"], rng=rng(3), **both)
    source = rng(3)
    alone = {"warmup": 0, "label_weight": 0.0}
    half = distill(net(), net(seed=1), images(), loss=first, layers=["0"], rng=source, **alone, **FAST)
    assert same(bits(found), bits(fit(half, images(), rng=source, **FAST)))


def training_mark(**facts):
    return DistillerMark(kind="distillers", paper="none", **facts)
