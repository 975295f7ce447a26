"""Relational knowledge distillation.

Source: Park et al., arXiv 1904.05068: distances of pairs, divided by their mean; cosines of the angles of triplets;
Huber loss between student and teacher. Means over all pairs and triplets: the authors' released code. Weights 25
and 50: RepDistiller.
"""

import math

import numpy as np
import pytest
import torch

from distrust import rng
from distrust.errors import BadInput
from distrust.methods import distillers
from distrust.methods.distillers._embedding import embedding
from distrust.models import Taps


def taps_of(*features) -> Taps:
    return Taps(torch.zeros(len(features[-1]), 3), {f"layer{i}": feature for i, feature in enumerate(features)})


def draw(seed: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng(seed))


def loss_of(student, teacher, **options) -> torch.Tensor:
    return distillers.rkd(taps_of(student), taps_of(teacher), None, **options)


def huber(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def numpy_distances(e: np.ndarray) -> np.ndarray:
    n = len(e)
    d = np.array([[math.sqrt(((e[i] - e[j]) ** 2).sum()) for j in range(n)] for i in range(n)])
    return d / d[d > 0].mean()


def numpy_angles(e: np.ndarray) -> np.ndarray:
    """Cosine at image i between the directions to j and to k; 0 where a direction has no length."""
    n = len(e)
    angles = np.zeros((n, n, n))
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if i not in (j, k):
                    a, b = e[j] - e[i], e[k] - e[i]
                    angles[i, j, k] = (a @ b) / math.sqrt((a @ a) * (b @ b))
    return angles


def numpy_rkd(student: torch.Tensor, teacher: torch.Tensor) -> tuple[float, float]:
    """The distance term and the angle term, one pair and one triplet at a time, in float64."""
    s, t = student.detach().double().numpy(), teacher.double().numpy()
    return tuple(
        np.mean([huber(a, b) for a, b in zip(of(s).flat, of(t).flat, strict=True)])
        for of in (numpy_distances, numpy_angles)
    )


def test_by_hand():
    """Student on a line at 0, 1, 3; teacher a right triangle with sides 3, 4, 5, its right angle at the first image.

    Distances over their mean: student (1, 2, 3) / 2, teacher (3, 4, 5) / 4 for the pairs 01, 12, 02 → 3, 5, 4.
    Angles at the images: student cos 0 = 1, cos π = −1, cos 0 = 1; teacher 0, 3/5, 4/5.
    """
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    gaps = [1 / 2 - 3 / 4, 2 / 2 - 5 / 4, 3 / 2 - 4 / 4]
    distance = 2 * sum(gap**2 / 2 for gap in gaps) / 9  # nine pairs, of which three are an image with itself
    angle = 2 * (1 / 2 + (8 / 5 - 1 / 2) + (1 / 5) ** 2 / 2) / 27  # 1 is the first gap beyond the parabola
    assert loss_of(student, teacher, distance_weight=1.0, angle_weight=0.0).item() == pytest.approx(distance, rel=1e-5)
    assert loss_of(student, teacher, distance_weight=0.0, angle_weight=1.0).item() == pytest.approx(angle, rel=1e-5)


@pytest.mark.parametrize("width", [1, 4, 16])
def test_it_is_numpys(width):
    student, teacher = draw("student", 6, width), draw("teacher", 6, 8)
    distance, angle = numpy_rkd(student, teacher)
    found = loss_of(student, teacher, distance_weight=0.7, angle_weight=3.0)
    assert found.item() == pytest.approx(0.7 * distance + 3.0 * angle, rel=1e-4)


def test_the_defaults_are_25_and_50():
    student, teacher = draw("student", 6, 4), draw("teacher", 6, 8)
    distance, angle = numpy_rkd(student, teacher)
    assert loss_of(student, teacher).item() == pytest.approx(25 * distance + 50 * angle, rel=1e-4)
    assert distillers.rkd.method.label_weight == 1.0 and distillers.rkd.method.auto == "embedding"


def test_only_shape_counts_not_place_size_or_turn():
    teacher = draw("teacher", 8, 5)
    turn = torch.linalg.qr(draw("turn", 5, 5)).Q
    assert loss_of(3 * teacher @ turn + 7, teacher) < 1e-6
    assert loss_of(teacher, teacher) == 0
    assert loss_of(teacher * torch.tensor([3.0, 1, 1, 1, 1]), teacher) > 0.1


def test_a_student_elsewhere_has_a_gradient():
    student = draw("student", 8, 4).requires_grad_()
    loss_of(student, draw("teacher", 8, 5)).backward()
    assert student.grad.isfinite().all() and (student.grad != 0).all()


def test_the_gradient_is_that_of_finite_differences():
    teacher, student = draw("teacher", 4, 3).double(), draw("student", 4, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: loss_of(e, teacher), student)


@pytest.mark.parametrize("alike", [2, 8])
def test_embeddings_that_coincide_give_no_nan(alike):
    student = draw("student", 8, 4)
    student[:alike] = student[0]
    student.requires_grad_()
    loss = loss_of(student, draw("teacher", 8, 5))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert alike == 8 or student.grad.count_nonzero()


def test_far_from_the_origin_distances_keep_their_digits():
    teacher = draw("teacher", 6, 4)
    assert loss_of(teacher + 1000, teacher) < 1e-4


def test_the_embedding_is_the_last_feature_averaged_over_its_pixels():
    first, last = draw("first", 6, 3, 4, 4), draw("last", 6, 5, 2, 2)
    expected = last.reshape(6, 5, 4).mean(2)
    torch.testing.assert_close(embedding(taps_of(first, last)), expected)
    assert torch.equal(embedding(taps_of(first, expected)), expected)
    found = distillers.rkd(taps_of(first, last), taps_of(draw("teacher", 6, 8)), None)
    torch.testing.assert_close(found, loss_of(expected, draw("teacher", 6, 8)))


def test_what_is_no_embedding_is_refused():
    with pytest.raises(BadInput, match=r"layer 'layer0' gives \[6, 7, 3\]; an embedding is \[B,D\]"):
        embedding(taps_of(draw("tokens", 6, 7, 3)))
    with pytest.raises(BadInput, match="no layer was tapped"):
        embedding(Taps(torch.zeros(6, 3), {}))
