"""DIST.

Source: Huang et al., arXiv 2205.10536: 1 − Pearson's correlation of the softened outputs, over the classes of each
image and over the images of each class. T² and the defaults (T 4, both weights 2): the authors' released code and
its CIFAR-100 configuration.
"""

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


def numpy_pearson(a: np.ndarray, b: np.ndarray) -> float:
    """By the definition: covariance over the product of the standard deviations."""
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    return covariance / np.sqrt(((a - a.mean()) ** 2).mean() * ((b - b.mean()) ** 2).mean())


def numpy_dist(student, teacher, beta: float, gamma: float, temperature: float) -> float:
    """One row and one column at a time, in float64."""

    def soft(logits):
        e = np.exp(logits.double().numpy() / temperature)
        return e / e.sum(1, keepdims=True)

    q, p = soft(student), soft(teacher)
    inter = np.mean([1 - numpy_pearson(q[i], p[i]) for i in range(q.shape[0])])
    intra = np.mean([1 - numpy_pearson(q[:, k], p[:, k]) for k in range(q.shape[1])])
    return temperature**2 * (beta * inter + gamma * intra)


def test_by_hand():
    """Two classes: a row's correlation is 1 or −1, as the student calls the same class or the other one.

    The student agrees on the first image only: inter = 1 − (1 − 1) / 2. Both are surer of class 0 on the first
    image than on the second, so both columns agree: intra = 0.
    """
    student, teacher = taps_of([[3.0, 0.0], [1.0, 0.0]]), taps_of([[2.0, 0.0], [0.0, 2.0]])
    inter = distillers.dist(student, teacher, None, beta=1.0, gamma=0.0, temperature=1.0)
    intra = distillers.dist(student, teacher, None, beta=0.0, gamma=1.0, temperature=1.0)
    assert inter.item() == pytest.approx(1.0, abs=1e-5) and intra.item() == pytest.approx(0.0, abs=1e-5)
    assert distillers.dist(student, teacher, None, beta=3.0, temperature=2.0).item() == pytest.approx(12, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("beta, gamma", [(1.0, 0.0), (0.0, 1.0), (0.7, 3.0)])
def test_it_is_numpys(temperature, beta, gamma):
    student, teacher = draw("student", 8, 10), draw("teacher", 8, 10)
    found = distillers.dist(taps_of(student), taps_of(teacher), None, beta=beta, gamma=gamma, temperature=temperature)
    assert found.item() == pytest.approx(numpy_dist(student, teacher, beta, gamma, temperature), rel=1e-4)


def test_numpys_correlation_is_numpys_own():
    a, b = draw("a", 20).numpy(), draw("b", 20).numpy()
    assert numpy_pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-5)


def test_the_defaults_are_2_and_2_and_temperature_4():
    student, teacher = draw("student", 8, 10), draw("teacher", 8, 10)
    found = distillers.dist(taps_of(student), taps_of(teacher), None)
    assert found.item() == pytest.approx(numpy_dist(student, teacher, 2.0, 2.0, 4.0), rel=1e-4)
    assert distillers.dist.method.label_weight == 1.0 and distillers.dist.method.logits_only


def test_outputs_need_to_correlate_and_not_to_be_equal():
    """Half the teacher's probabilities plus a half of the uniform ones: another softmax, the same correlations."""
    teacher = draw("teacher", 8, 10).softmax(1)
    student = 0.5 * teacher + 0.05
    loss = distillers.dist(taps_of(student.log()), taps_of(teacher.log()), None, temperature=1.0)
    assert loss.abs() < 1e-5
    assert distillers.kd(taps_of(student.log()), taps_of(teacher.log()), None, temperature=1.0) > 1e-2


def test_the_teachers_answers_cost_nothing_and_others_have_a_gradient():
    teacher = draw("teacher", 8, 10)
    same = teacher.clone().requires_grad_()
    loss = distillers.dist(Taps(same, {}), taps_of(teacher), None)
    loss.backward()
    assert loss.abs() < 1e-5 and same.grad.abs().max() < 1e-5
    student = draw("student", 8, 10).requires_grad_()
    distillers.dist(Taps(student, {}), taps_of(teacher), None).backward()
    assert student.grad.isfinite().all() and (student.grad != 0).all()


def test_the_gradient_is_that_of_finite_differences():
    teacher, student = draw("teacher", 4, 3).double(), draw("student", 4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distillers.dist(Taps(z, {}), Taps(teacher, {}), None), student)


@pytest.mark.parametrize("logits", [torch.zeros(4, 3), torch.tensor([[1000.0, 0.0, -1000.0]] * 4)])
def test_a_student_that_answers_everything_alike_gives_no_nan(logits):
    student = logits.clone().requires_grad_()
    loss = distillers.dist(Taps(student, {}), taps_of(draw("teacher", 4, 3)), None)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
