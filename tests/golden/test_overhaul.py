"""Overhaul's margins and its partial distance.

Source: Heo et al., arXiv 1904.01866, and their released code: the margin is the mean of the negative part of a
Gaussian with the BatchNorm's shift and scale (here SciPy's truncated normal), connectors are a 1×1 convolution and
BatchNorm on the student, layers weigh 1/4, 1/2, 1, and the sum over all is divided by 1000.
"""

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch import nn

from distrust import rng
from distrust.errors import BadInput
from distrust.methods import distillers
from distrust.methods.distillers.overhaul import margin
from distrust.models import Taps
from distrust.seeds import seeded

WIDTHS = 6, 8, 9
OURS = (4, 3, 8, 8), (4, 5, 4, 4), (4, 7, 2, 2)
THEIRS = (4, 6, 8, 8), (4, 8, 4, 4), (4, 9, 2, 2)


def features(seed: str, *shapes: tuple[int, ...], paths=("1", "3", "5"), requires_grad: bool = False) -> Taps:
    draw = rng(seed)
    drawn = [torch.randn(shape, generator=draw).requires_grad_(requires_grad) for shape in shapes]
    return Taps(torch.zeros(len(drawn[0]), 3), dict(zip(paths, drawn, strict=False)))


def teacher_net(norm=nn.BatchNorm2d) -> nn.Sequential:
    """Convolutions, each followed by a norm, which have scales of both signs."""
    with seeded(rng("teacher")):
        layers = [
            layer
            for inputs, outputs in zip((3, *WIDTHS), WIDTHS, strict=False)
            for layer in (nn.Conv2d(inputs, outputs, 1), norm(outputs))
        ]
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d) and layer.affine:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
    return nn.Sequential(*layers)


def bound(student: Taps, teacher: Taps, net: nn.Module, **options):
    with seeded(rng("connectors")):
        loss = distillers.overhaul(**options)
        loss.bind(student, teacher, net)
    return loss


def numpy_connector(connector: nn.Sequential, feature: torch.Tensor) -> np.ndarray:
    convolution, norm = connector
    w, x = (t.detach().double().numpy() for t in (convolution.weight, feature))
    y = np.einsum("oi,bihw->bohw", w[:, :, 0, 0], x)
    return (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + norm.eps)


def numpy_partial(s: np.ndarray, t: np.ndarray, margins: np.ndarray) -> float:
    """One neuron at a time, summed, over the batch size."""
    total = 0.0
    for index, ours in np.ndenumerate(s):
        target = max(t[index], margins[index[1]])
        if target > 0 or ours > target:
            total += (ours - target) ** 2
    return total / len(s)


def scipy_margin(scale: torch.Tensor, shift: torch.Tensor) -> np.ndarray:
    s, m = scale.detach().double().abs().numpy(), shift.detach().double().numpy()
    return truncnorm.mean(-np.inf, -m / s, loc=m, scale=s)


def test_a_margin_is_the_mean_of_the_negative_part_of_a_gaussian():
    scale, shift = torch.randn(50, generator=rng("scale")), torch.randn(50, generator=rng("shift"))
    likely = shift / scale.abs() < 3  # a thousandth of the mass is beyond 3.09 deviations
    assert likely.any() and (~likely).any()
    np.testing.assert_allclose(margin(scale, shift)[likely], scipy_margin(scale, shift)[likely], rtol=1e-5)


def test_a_margin_by_hand():
    found = margin(torch.tensor([1.0, -2.0]), torch.zeros(2))  # E[x | x < 0] = −σ·√(2/π), whatever the sign of γ
    assert found.tolist() == pytest.approx([-((2 / np.pi) ** 0.5), -2 * (2 / np.pi) ** 0.5])


def test_where_hardly_anything_is_negative_the_margin_is_three_deviations_below_zero():
    scale, shift = torch.tensor([0.5, -0.5, 0.5, 0.0]), torch.tensor([0.5 * 3.2, 0.5 * 3.2, 0.5 * 3.0, 1.0])
    found = margin(scale, shift)
    assert found[:2].tolist() == [-1.5, -1.5] and found[3] == 0
    assert -0.5 < found[2] < 0


def test_it_is_numpys_with_the_margins_of_the_teachers_norms_and_its_gradient_is_not_zero():
    student, teacher, net = features("student", *OURS, requires_grad=True), features("teacher", *THEIRS), teacher_net()
    loss = bound(student, teacher, net, weight=0.5)
    expected = 0.0
    for i, (ours, theirs) in enumerate(zip(student.features.values(), teacher.features.values(), strict=True)):
        norm = net[2 * i + 1]
        unlikely = (norm.bias / norm.weight.abs() > 3.09).numpy()
        margins = np.where(unlikely, -3 * norm.weight.detach().abs().numpy(), scipy_margin(norm.weight, norm.bias))
        part = numpy_partial(numpy_connector(loss.connectors[i], ours), theirs.double().numpy(), margins)
        expected += part / 2 ** (2 - i)
    found = loss(student, teacher, None)
    assert found.item() == pytest.approx(0.5 * expected, rel=1e-4)
    found.backward()
    assert all(t.grad.isfinite().all() and t.grad.count_nonzero() for t in student.features.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert all(connector[0].weight.grad.count_nonzero() for connector in loss.connectors)


@pytest.mark.parametrize(
    "s, t, value",
    [
        (1.0, 3.0, 4.0),  # the teacher is active
        (5.0, 3.0, 4.0),
        (-5.0, 3.0, 64.0),
        (1.0, -0.5, 2.25),  # the student is above a silent teacher
        (-0.7, -0.5, 0.0),  # below it: nothing more to learn
        (-0.7, -9.0, 0.09),  # the teacher's far negatives end at the margin, −1
        (-2.0, -9.0, 0.0),
    ],
)
def test_the_partial_distance_by_hand(s, t, value):
    student, teacher = (Taps(torch.zeros(1, 2), {"1": torch.full((1, 6, 1, 1), number)}) for number in (s, t))
    loss = bound(student, teacher, teacher_net(), weight=1.0)
    loss.connectors[0], loss.margin0 = nn.Identity(), torch.full((6,), -1.0)
    assert loss(student, teacher, None).item() == pytest.approx(6 * value, rel=1e-5)


def test_the_first_of_three_layers_counts_a_quarter_the_second_a_half():
    student = features("student", *THEIRS)
    values = []
    for i in range(3):
        teacher = Taps(student.logits, dict(student.features))
        path = list(teacher.features)[i]
        teacher.features[path] = student.features[path].abs() + 1
        loss = bound(student, teacher, teacher_net(), weight=1.0)
        loss.connectors = nn.ModuleList([nn.Identity()] * 3)
        for layer in range(3):
            setattr(loss, f"margin{layer}", torch.full((WIDTHS[layer],), -100.0))
        ours, theirs = student.features[path], teacher.features[path]
        alone = ((ours - theirs).square().sum() / 4).item()
        values.append(loss(student, teacher, None).item() / alone)
    assert values == pytest.approx([0.25, 0.5, 1.0], rel=1e-5)


@pytest.mark.parametrize("norm", [nn.Identity, lambda width: nn.BatchNorm2d(width, affine=False)])
def test_without_a_norm_the_margin_is_the_mean_of_the_negatives_so_far(norm):
    student, net = features("student", OURS[0]), teacher_net(norm)
    first, second = features("first", THEIRS[0]), features("second", THEIRS[0])
    first.features["1"][:, 2] = 1.0  # one channel has no negatives yet
    loss = bound(student, first, net, weight=1.0)
    connected = numpy_connector(loss.connectors[0], student.features["1"])
    seen = np.zeros((0, *THEIRS[0][1:]))
    for teacher in (first, second):
        theirs = teacher.features["1"].double().numpy()
        seen = np.concatenate([seen, theirs])
        channels = (seen[:, c] for c in range(6))
        margins = np.array([c[c < 0].mean() if (c < 0).any() else 0.0 for c in channels])
        expected = numpy_partial(connected, theirs, margins)
        assert loss(student, teacher, None).item() == pytest.approx(expected, rel=1e-4)


def test_by_default_the_sum_is_divided_by_1000_and_weight_0_switches_it_off():
    student, teacher, net = features("student", *OURS), features("teacher", *THEIRS), teacher_net()
    whole = bound(student, teacher, net, weight=1.0)(student, teacher, None).item()
    assert bound(student, teacher, net)(student, teacher, None).item() == pytest.approx(whole / 1000, rel=1e-5)
    assert bound(student, teacher, net, weight=0.0)(student, teacher, None) == 0
    mark = distillers.overhaul.method
    assert (mark.label_weight, mark.auto, mark.teacher_mode, mark.warmup) == (1.0, "pre-relu", "train", 0.0)


def test_there_is_a_connector_even_between_layers_of_one_width():
    alike, net = features("alike", *THEIRS), teacher_net()
    for connector, width in zip(bound(alike, alike, net).connectors, WIDTHS, strict=True):
        assert connector[0].weight.shape == (width, width, 1, 1) and connector[0].bias is None
        assert isinstance(connector[1], nn.BatchNorm2d)


def test_other_layers_than_those_bound_and_what_is_no_map_are_refused():
    student, teacher = features("student", *OURS), features("teacher", *THEIRS)
    loss = bound(student, teacher, teacher_net())
    with pytest.raises(BadInput, match="owns connectors that are built for two models"):
        loss(features("student", *OURS[:2]), features("teacher", *THEIRS[:2]), None)
    flat = features("flat", (2, 3), paths=("1",))
    with pytest.raises(BadInput, match=r"'1' is no feature map \[B,C,H,W\] but \[2, 3\]"):
        bound(flat, flat, teacher_net())
