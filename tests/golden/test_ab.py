"""Activation boundaries.

Source: Heo et al., arXiv 1811.03233, and their released code: margin 1, layers weighted 1/4, 1/2, 1, the sum over all
times 3/1000; connectors left out between models of one width; afterwards softened outputs at T = 3 alone.
"""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from distrust import model, rng
from distrust.errors import BadInput
from distrust.methods import distillers
from distrust.models import Taps
from distrust.seeds import seeded
from distrust.training import distill


def features(seed: str, *shapes: tuple[int, ...], requires_grad: bool = False) -> Taps:
    draw = rng(seed)
    drawn = [torch.randn(shape, generator=draw).requires_grad_(requires_grad) for shape in shapes]
    return Taps(torch.zeros(len(drawn[0]), 3), {f"layer{i}": feature for i, feature in enumerate(drawn)})


def bound(student: Taps, teacher: Taps, **options):
    with seeded(rng("connectors")):
        loss = distillers.ab(**options)
        loss.bind(student, teacher, nn.Identity())
    return loss


SHAPES = (4, 3, 8, 8), (4, 5, 4, 4), (4, 7, 2, 2)


def numpy_ab(student: list[torch.Tensor], teacher: list[torch.Tensor], m: float) -> float:
    """One neuron at a time, in float64."""
    total = 0.0
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        layer = 0.0
        for ours, theirs in zip(s.detach().double().flatten().tolist(), t.double().flatten().tolist(), strict=True):
            if theirs > 0 and ours <= m:
                layer += (ours - m) ** 2
            elif theirs <= 0 and ours > -m:
                layer += (ours + m) ** 2
        total += layer / len(s) / 2 ** (len(student) - 1 - i)
    return total


@pytest.mark.parametrize(
    "s, t, value",
    [
        (0.5, 2.0, 0.25),  # active, but not by the margin
        (1.0, 2.0, 0.0),  # by the margin
        (3.0, 0.1, 0.0),  # by more
        (-2.0, 0.1, 9.0),  # silent where the teacher is active
        (-0.5, -2.0, 0.25),
        (-1.0, -2.0, 0.0),
        (-3.0, -0.1, 0.0),
        (2.0, -0.1, 9.0),
        (0.0, 0.0, 1.0),  # a teacher at 0 is silent
    ],
)
def test_by_hand(s, t, value):
    student, teacher = (Taps(torch.zeros(1, 2), {"a": torch.full((1, 1, 1, 1), number)}) for number in (s, t))
    assert bound(student, teacher, weight=1.0)(student, teacher, None).item() == value


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_it_is_numpys_and_its_gradient_is_not_zero(margin):
    student, teacher = features("student", *SHAPES, requires_grad=True), features("teacher", *SHAPES)
    loss = bound(student, teacher, margin=margin, weight=2.0)(student, teacher, None)
    expected = numpy_ab(list(student.features.values()), list(teacher.features.values()), margin)
    assert loss.item() == pytest.approx(2 * expected, rel=1e-5)
    loss.backward()
    assert all(f.grad.isfinite().all() and f.grad.count_nonzero() for f in student.features.values())


def test_by_default_the_margin_is_1_and_the_sum_is_multiplied_by_3_over_1000():
    student, teacher = features("student", *SHAPES), features("teacher", *SHAPES)
    expected = 3 / 1000 * numpy_ab(list(student.features.values()), list(teacher.features.values()), 1.0)
    assert bound(student, teacher)(student, teacher, None).item() == pytest.approx(expected, rel=1e-5)
    assert bound(student, teacher, weight=0.0)(student, teacher, None) == 0


def test_between_other_widths_each_layer_has_a_connector_on_the_student():
    student = features("student", *SHAPES, requires_grad=True)
    teacher = features("teacher", (4, 6, 8, 8), (4, 5, 4, 4), (4, 9, 2, 2))
    loss = bound(student, teacher, weight=1.0)
    for connector, inputs, outputs in zip(loss.connectors, (3, 5, 7), (6, 5, 9), strict=True):
        convolution, norm = connector
        assert convolution.weight.shape == (outputs, inputs, 1, 1) and convolution.bias is None
        assert isinstance(norm, nn.BatchNorm2d)
    found = loss(student, teacher, None)
    connected = [c(f) for c, f in zip(loss.connectors, student.features.values(), strict=True)]
    assert found.item() == pytest.approx(numpy_ab(connected, list(teacher.features.values()), 1.0), rel=1e-4)
    found.backward()
    assert all(t.grad.count_nonzero() for t in [*student.features.values(), *loss.parameters()])


def test_a_connector_is_drawn_with_the_deviation_of_the_released_code():
    wide = (
        Taps(torch.zeros(2, 2), {"a": torch.zeros(2, 64, 1, 1)}),
        Taps(torch.zeros(2, 2), {"a": torch.zeros(2, 256, 1, 1)}),
    )
    weight = bound(*wide).connectors[0][0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02) and abs(weight.mean().item()) < 2e-3


def test_between_models_of_one_width_there_is_no_connector():
    student, teacher = features("student", *SHAPES), features("teacher", *SHAPES)
    assert not list(bound(student, teacher).parameters())


def test_the_larger_map_is_averaged_to_the_smaller_ones_size():
    large, small = features("large", (2, 3, 8, 8)), features("small", (2, 3, 4, 4))
    blocks = large.features["layer0"].reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    theirs = small.features["layer0"]
    assert bound(large, small, weight=1.0)(large, small, None).item() == pytest.approx(
        numpy_ab([blocks], [theirs], 1.0), rel=1e-5
    )
    assert bound(small, large, weight=1.0)(small, large, None).item() == pytest.approx(
        numpy_ab([theirs], [blocks], 1.0), rel=1e-5
    )


def test_what_is_no_feature_map_is_refused():
    flat = features("flat", (2, 3))
    with pytest.raises(BadInput, match=r"'layer0' is no feature map \[B,C,H,W\] but \[2, 3\]"):
        bound(flat, flat)


def test_the_second_stage_is_the_divergence_at_3_without_its_square_and_without_labels():
    mark = distillers.ab.method
    assert (mark.label_weight, mark.warmup, mark.auto, mark.teacher_mode) == (0.0, 0.5, "pre-relu", "train")
    student, teacher = (3 * torch.randn(8, 10, generator=rng(seed)) for seed in ("student", "teacher"))
    q, p = (np.exp(z.double().numpy() / 3) for z in (student, teacher))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    found = mark.then(Taps(student, {}), Taps(teacher, {}), None).item()
    assert found == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:teacher-in-train-mode")
def test_half_of_the_epochs_are_the_first_stage(tiny):
    calls = []

    class Watched(distillers.ab):
        def forward(self, student, teacher, y):
            calls.append(list(student.features))
            return super().forward(student, teacher, y)

    student, teacher = (model("wrn10-1", tiny, rng=rng(seed)) for seed in (0, 1))
    before = student.fc.weight.clone()
    loss = functools.partial(Watched)
    taught = distill(student, teacher, tiny, loss=loss, epochs=4, batch_size=40, weight_decay=0.0)
    assert calls == 4 * [["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]]  # two epochs of two steps
    assert not torch.equal(taught.fc.weight, before), "the last layer learns from the softened outputs"
