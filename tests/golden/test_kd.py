"""Hinton's distillation.

Source: Hinton, Vinyals, Dean, arXiv 1503.02531, section 2: softmax(z / T), and gradients scaled back by T².
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


def numpy_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """KL(teacher ‖ student) in float64: summed over classes, mean over the batch."""

    def soft(logits):
        e = np.exp(logits.detach().double().numpy() / temperature)
        return e / e.sum(1, keepdims=True)

    p, q = soft(teacher), soft(student)
    return (p * np.log(p / q)).sum(1).mean()


def test_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2) at T = 2: KL = 3/4·ln(3/2) + 1/4·ln(1/2), and T² = 4."""
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    student, teacher = taps_of([[0.0, 0.0]]), taps_of([[2 * math.log(3), 0.0]])
    found = distillers.kd(student, teacher, None, temperature=2.0, weight=1.0)
    assert found.item() == pytest.approx(4 * kl, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_it_is_numpys(temperature):
    student, teacher = (3 * torch.randn(8, 10, generator=rng(seed)) for seed in ("student", "teacher"))
    found = distillers.kd(taps_of(student), taps_of(teacher), None, temperature=temperature, weight=0.7)
    expected = 0.7 * temperature**2 * numpy_kl(student, teacher, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_defaults_are_weight_09_and_temperature_4():
    student, teacher = (torch.randn(8, 10, generator=rng(seed)) for seed in ("student", "teacher"))
    found = distillers.kd(taps_of(student), taps_of(teacher), None)
    assert found.item() == pytest.approx(0.9 * 16 * numpy_kl(student, teacher, 4.0), rel=1e-4)
    assert distillers.kd.method.label_weight == 0.1


def test_the_gradient_is_weight_t_times_the_difference_of_softened_outputs():
    """Of T²·KL by z: T·(softmax(z/T) − softmax(v/T)) over the batch size, as section 2.1 times T²."""
    student, teacher = (torch.randn(5, 4, generator=rng(seed)) for seed in ("student", "teacher"))
    student.requires_grad_()
    distillers.kd(Taps(student, {}), taps_of(teacher), None, temperature=3.0, weight=0.9).backward()
    expected = 0.9 * 3 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 5
    assert student.grad.count_nonzero()
    torch.testing.assert_close(student.grad, expected.detach())


def test_a_very_sure_teacher_gives_no_nan():
    sure = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    loss = distillers.kd(Taps(sure, {}), taps_of([[-1000.0, 0.0, 1000.0]]), None, temperature=1.0)
    loss.backward()
    assert loss.isfinite() and sure.grad.isfinite().all()
