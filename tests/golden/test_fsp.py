"""FSP matrices and their loss.

Source: Yim et al., CVPR 2017, equation 1 (the FSP matrix), with the mean of squared differences, the places and the
stages (30 epochs with this loss, then 240 with the labels) of RepDistiller.
"""

import functools

import numpy as np
import pytest
import torch

from distrust import model, rng
from distrust.errors import BadInput, Skip
from distrust.methods import distillers
from distrust.methods.distillers.fsp import fsp_matrix
from distrust.models import Taps
from distrust.training import distill


def features(seed: str, *shapes: tuple[int, ...], requires_grad: bool = False) -> Taps:
    draw = rng(seed)
    drawn = [torch.randn(shape, generator=draw).requires_grad_(requires_grad) for shape in shapes]
    return Taps(torch.zeros(len(drawn[0]), 3), {f"layer{i}": feature for i, feature in enumerate(drawn)})


SHAPES = (4, 3, 8, 8), (4, 5, 8, 8), (4, 7, 4, 4)


def numpy_matrix(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """One image and one pair of channels at a time, in float64; a larger map is averaged in blocks."""
    a, b = a.detach().double().numpy(), b.detach().double().numpy()
    if a.shape[2] > b.shape[2]:
        n = a.shape[2] // b.shape[2]
        a = a.reshape(*a.shape[:2], b.shape[2], n, b.shape[3], n).mean((3, 5))
    return np.array(
        [[[(p * q).mean() for q in image_b] for p in image_a] for image_a, image_b in zip(a, b, strict=True)]
    )


def numpy_fsp(student: Taps, teacher: Taps) -> float:
    def matrices(read):
        maps = list(read.features.values())
        return [numpy_matrix(a, b) for a, b in zip(maps[:-1], maps[1:], strict=True)]

    return sum(np.mean((g - h) ** 2) for g, h in zip(matrices(student), matrices(teacher), strict=True))


def test_a_matrix_by_hand():
    a = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]])  # two channels of 1×2 pixels
    b = torch.tensor([[[[3.0, 1.0]]]])
    assert fsp_matrix(a, b)[0].tolist() == [[2.5], [-0.5]]  # (1·3 + 2·1) / 2, (0·3 − 1·1) / 2


def test_a_loss_by_hand():
    ours = Taps(torch.zeros(1, 2), {"a": torch.full((1, 1, 2, 2), 1.0), "b": torch.full((1, 1, 1, 1), 2.0)})
    theirs = Taps(torch.zeros(1, 2), {"a": torch.full((1, 1, 2, 2), 3.0), "b": torch.full((1, 1, 1, 1), 4.0)})
    assert distillers.fsp(ours, theirs, None, weight=0.5).item() == 0.5 * (2 - 12) ** 2


def test_it_is_numpys_and_its_gradient_is_not_zero():
    student, teacher = features("student", *SHAPES, requires_grad=True), features("teacher", *SHAPES)
    loss = distillers.fsp(student, teacher, None, weight=3.0)
    assert loss.item() == pytest.approx(3 * numpy_fsp(student, teacher), rel=1e-4)
    assert distillers.fsp(student, teacher, None).item() == pytest.approx(loss.item() / 3)
    loss.backward()
    assert all(f.grad.isfinite().all() and f.grad.count_nonzero() for f in student.features.values())


def test_the_gradient_is_that_of_finite_differences():
    logits = torch.zeros(2, 3, dtype=torch.float64)
    first, second, third, fourth = (
        torch.randn(2, c, n, n, generator=rng(c, n), dtype=torch.float64) for c, n in ((2, 4), (3, 2), (2, 4), (3, 2))
    )
    teacher = Taps(logits, {"a": first, "b": second})
    inputs = third.requires_grad_(), fourth.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: distillers.fsp(Taps(logits, {"a": a, "b": b}), teacher, None), inputs)


def test_student_and_teacher_may_differ_in_size():
    student, teacher = features("student", *SHAPES), features("teacher", (4, 3, 4, 4), (4, 5, 4, 4), (4, 7, 2, 2))
    assert distillers.fsp(student, teacher, None).item() == pytest.approx(numpy_fsp(student, teacher), rel=1e-4)


def test_other_widths_are_an_answer_that_names_the_layer_and_both():
    student, teacher = features("student", *SHAPES), features("teacher", SHAPES[0], (4, 6, 8, 8), SHAPES[2])
    with pytest.raises(Skip, match="layer 'layer1' of the student has 5 channels and the teacher's 6"):
        distillers.fsp(student, teacher, None)


def test_one_layer_and_what_is_no_map_are_refused():
    alone = features("alone", SHAPES[0])
    with pytest.raises(BadInput, match="1 layer is tapped; name at least two"):
        distillers.fsp(alone, alone, None)
    flat = features("flat", SHAPES[0], (4, 8))
    with pytest.raises(BadInput, match=r"'layer1' is no feature map \[B,C,H,W\] but \[4, 8\]"):
        distillers.fsp(flat, flat, None)


@pytest.mark.parametrize(
    "epochs, first, options", [(9, 1, {}), (4, 1, {}), (3, 2, {"warmup": 0.6}), (2, 2, {"warmup": 0})]
)
def test_it_comes_first_and_alone_and_the_labels_follow(epochs, first, options, tiny):
    calls = []

    @functools.wraps(distillers.fsp)
    def watched(student, teacher, y):
        calls.append(list(student.features))
        return distillers.fsp(student, teacher, y)

    student, teacher = (model("wrn10-1", tiny, rng=rng(seed)) for seed in (0, 1))
    before = student.fc.weight.clone()
    taught = distill(student, teacher, tiny, loss=watched, epochs=epochs, batch_size=40, weight_decay=0.0, **options)
    assert calls == 2 * first * [["block1:input", "block1", "block2", "block3"]]  # two steps an epoch
    assert not torch.equal(taught.fc.weight, before), "the last layer learns from the labels"
