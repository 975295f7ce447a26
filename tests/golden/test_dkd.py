"""Decoupled knowledge distillation.

Source: Zhao et al., arXiv 2203.08679: KD = TCKD + (1 − p_t) · NCKD, of which the two parts get weights of their
own. Defaults (alpha 1, beta 8, T 4) and the factor T²: the authors' mdistiller.
"""

import math

import numpy as np
import pytest
import torch

from distrust import rng
from distrust.methods import distillers
from distrust.models import Taps


def taps_of(logits) -> Taps:
    return Taps(torch.as_tensor(logits, dtype=torch.float32), {})


def draw(seed: str, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=rng(seed))


def numpy_dkd(student, teacher, y, alpha: float, beta: float, temperature: float) -> float:
    """One image at a time, in float64."""
    total = 0.0
    for s, t, target in zip(student.double().numpy(), teacher.double().numpy(), y, strict=True):
        q, p = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (s, t))
        others = [k for k in range(len(p)) if k != target]
        p_not, q_not = sum(p[k] for k in others), sum(q[k] for k in others)
        tckd = p[target] * np.log(p[target] / q[target]) + p_not * np.log(p_not / q_not)
        nckd = sum(p[k] / p_not * np.log((p[k] / p_not) / (q[k] / q_not)) for k in others)
        total += alpha * tckd + beta * nckd
    return temperature**2 * total / len(student)


def test_by_hand():
    """Teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2), target 0, T = 2.

    TCKD: (1/2, 1/2) against (1/4, 3/4). NCKD: (1/2, 1/2) against (1/3, 2/3).
    """
    teacher = taps_of([[2 * math.log(2), 0.0, 0.0]])
    student = taps_of([[0.0, 0.0, 2 * math.log(2)]])
    tckd = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    nckd = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    for alpha, beta in [(1.0, 0.0), (0.0, 1.0), (1.0, 8.0)]:
        found = distillers.dkd(student, teacher, torch.tensor([0]), alpha=alpha, beta=beta, temperature=2.0)
        assert found.item() == pytest.approx(4 * (alpha * tckd + beta * nckd), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_it_is_numpys(temperature):
    student, teacher, y = draw("student", 8, 10), draw("teacher", 8, 10), torch.arange(8)
    found = distillers.dkd(taps_of(student), taps_of(teacher), y, alpha=0.7, beta=3.0, temperature=temperature)
    assert found.item() == pytest.approx(numpy_dkd(student, teacher, y, 0.7, 3.0, temperature), rel=1e-4)


def test_the_defaults_are_1_and_8_and_temperature_4():
    student, teacher, y = draw("student", 8, 10), draw("teacher", 8, 10), torch.arange(8)
    found = distillers.dkd(taps_of(student), taps_of(teacher), y)
    assert found.item() == pytest.approx(numpy_dkd(student, teacher, y, 1.0, 8.0, 4.0), rel=1e-4)
    assert distillers.dkd.method.label_weight == 1.0 and distillers.dkd.method.logits_only


def test_hintons_loss_is_tckd_and_nckd_weighed_by_the_teachers_doubt():
    """The paper's identity, for each image by itself: beta = 1 − p_t gives KD back."""
    for i, (s, t) in enumerate(zip(draw("student", 6, 5), draw("teacher", 6, 5), strict=True)):
        student, teacher, target = taps_of(s[None]), taps_of(t[None]), i % 5
        doubt = 1 - (t / 4).softmax(0)[target].item()
        found = distillers.dkd(student, teacher, torch.tensor([target]), alpha=1.0, beta=doubt)
        expected = distillers.kd(student, teacher, None, weight=1.0)
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_soft_labels_count_as_their_largest():
    student, teacher, y = taps_of(draw("student", 8, 10)), taps_of(draw("teacher", 8, 10)), torch.arange(8)
    soft = 0.1 / 9 + (0.9 - 0.1 / 9) * torch.eye(10)[y]
    assert torch.equal(distillers.dkd(student, teacher, soft), distillers.dkd(student, teacher, y))


def test_the_target_matters():
    student, teacher = taps_of(draw("student", 8, 10)), taps_of(draw("teacher", 8, 10))
    first, second = (distillers.dkd(student, teacher, torch.full((8,), k)) for k in (0, 9))
    assert abs(first - second) > 1e-2


def test_the_teachers_answers_cost_nothing_and_others_have_a_gradient():
    teacher, y = draw("teacher", 8, 10), torch.arange(8)
    assert distillers.dkd(taps_of(teacher), taps_of(teacher), y).abs() < 1e-5
    student = draw("student", 8, 10).requires_grad_()
    distillers.dkd(Taps(student, {}), taps_of(teacher), y).backward()
    assert student.grad.isfinite().all() and (student.grad != 0).all()


def test_the_gradient_is_that_of_finite_differences():
    teacher, student = draw("teacher", 3, 4).double(), draw("student", 3, 4).double().requires_grad_()
    y = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda z: distillers.dkd(Taps(z, {}), Taps(teacher, {}), y), student)


def test_of_two_classes_only_the_target_counts():
    student, teacher, y = draw("student", 8, 2), draw("teacher", 8, 2), torch.arange(8) % 2
    found = distillers.dkd(taps_of(student), taps_of(teacher), y, alpha=1.0)
    expected = distillers.kd(taps_of(student), taps_of(teacher), None, weight=1.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_a_very_sure_teacher_gives_no_nan(target):
    sure = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    y = torch.tensor([target])
    loss = distillers.dkd(Taps(sure, {}), taps_of([[-1000.0, 0.0, 1000.0]]), y, temperature=1.0)
    loss.backward()
    assert loss.isfinite() and sure.grad.isfinite().all()
