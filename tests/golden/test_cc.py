"""Correlation congruence.

Source: Peng et al., ICCV 2019, arXiv 1904.01802, as Knowledge-Distillation-Zoo and torchdistill both compute it: the
Taylor series of a Gaussian RBF, exp(−2γ) · Σ_p (2γ)^p / p! · (a·b)^p to p = 2, with γ = 0.4. The mean of squares and
the weight 100 are Knowledge-Distillation-Zoo's.
"""

import math

import numpy as np
import pytest
import torch

from distrust import rng
from distrust.methods import distillers
from distrust.models import Taps


def taps_of(*features) -> Taps:
    return Taps(torch.zeros(len(features[-1]), 3), {f"layer{i}": feature for i, feature in enumerate(features)})


def draw(seed: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng(seed))


def loss_of(student, teacher, **options) -> torch.Tensor:
    return distillers.cc(taps_of(student), taps_of(teacher), None, **options)


def numpy_cc(student: torch.Tensor, teacher: torch.Tensor, correlation) -> float:
    """Mean over all pairs of images, an image with itself included, in float64."""
    total, n = 0.0, len(student)
    for i in range(n):
        for j in range(n):
            pair = []
            for e in (student.double().numpy(), teacher.double().numpy()):
                a, b = e[i] / np.sqrt(e[i] @ e[i]), e[j] / np.sqrt(e[j] @ e[j])
                pair.append(correlation(a, b))
            total += (pair[0] - pair[1]) ** 2
    return total / n**2


def taylor(gamma: float, order: int):
    return lambda a, b: (
        math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) * (a @ b) ** p for p in range(order + 1))
    )


def test_by_hand():
    """Two images: the student's at a right angle, the teacher's alike; only the two mixed pairs differ.

    With γ = 1/2: exp(−1) · (1 + a·b + (a·b)² / 2) is exp(−1) at a·b = 0 and 2.5 · exp(−1) at a·b = 1.
    """
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0], [5.0]])
    expected = 2 * (1.5 * math.exp(-1)) ** 2 / 4
    assert loss_of(student, teacher, weight=1.0, gamma=0.5).item() == pytest.approx(expected, rel=1e-5)
    assert loss_of(student, teacher, weight=1.0, kernel="bilinear").item() == pytest.approx(2 / 4, rel=1e-5)


@pytest.mark.parametrize("gamma, order", [(0.4, 2), (0.4, 1), (1.3, 5)])
def test_it_is_numpys(gamma, order):
    student, teacher = draw("student", 6, 4), draw("teacher", 6, 8)
    found = loss_of(student, teacher, weight=0.7, gamma=gamma, order=order)
    assert found.item() == pytest.approx(0.7 * numpy_cc(student, teacher, taylor(gamma, order)), rel=1e-4)


def test_the_series_tends_to_the_gaussian():
    student, teacher = draw("student", 6, 4), draw("teacher", 6, 8)
    expected = numpy_cc(student, teacher, lambda a, b: math.exp(-0.4 * ((a - b) @ (a - b))))
    assert loss_of(student, teacher, weight=1.0, order=12).item() == pytest.approx(expected, rel=1e-4)


def test_the_bilinear_kernel_is_numpys():
    student, teacher = draw("student", 6, 4), draw("teacher", 6, 8)
    found = loss_of(student, teacher, weight=1.0, kernel="bilinear")
    assert found.item() == pytest.approx(numpy_cc(student, teacher, lambda a, b: a @ b), rel=1e-4)


def test_the_defaults_are_weight_100_and_the_rbf_of_order_2_with_gamma_04():
    student, teacher = draw("student", 6, 4), draw("teacher", 6, 8)
    expected = 100 * numpy_cc(student, teacher, taylor(0.4, 2))
    assert loss_of(student, teacher).item() == pytest.approx(expected, rel=1e-4)
    assert distillers.cc.method.label_weight == 1.0 and distillers.cc.method.auto == "embedding"


@pytest.mark.parametrize("kernel", ["rbf", "bilinear"])
def test_only_directions_count_and_only_against_each_other(kernel):
    teacher = draw("teacher", 8, 5)
    turn = torch.linalg.qr(draw("turn", 5, 5)).Q
    scale = torch.arange(1.0, 9.0)[:, None]
    assert loss_of(teacher, teacher, kernel=kernel) == 0
    assert loss_of(scale * teacher @ turn, teacher, kernel=kernel) < 1e-6
    assert loss_of(teacher + 1, teacher, kernel=kernel) > 0.1


@pytest.mark.parametrize("kernel", ["rbf", "bilinear"])
def test_a_student_elsewhere_has_a_gradient(kernel):
    student = draw("student", 8, 4).requires_grad_()
    loss_of(student, draw("teacher", 8, 5), kernel=kernel).backward()
    assert student.grad.isfinite().all() and (student.grad != 0).all()


def test_the_gradient_is_that_of_finite_differences():
    teacher, student = draw("teacher", 4, 3).double(), draw("student", 4, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: loss_of(e, teacher), student)


def test_silent_embeddings_give_no_nan():
    student = draw("student", 8, 4)
    student[:2] = 0
    student.requires_grad_()
    loss = loss_of(student, draw("teacher", 8, 5))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_maps_are_averaged_over_their_pixels_and_only_the_last_layer_counts():
    first, last, teacher = draw("first", 6, 3, 4, 4), draw("last", 6, 5, 2, 2), draw("teacher", 6, 8)
    found = distillers.cc(taps_of(first, last), taps_of(teacher), None)
    torch.testing.assert_close(found, loss_of(last.reshape(6, 5, 4).mean(2), teacher))
