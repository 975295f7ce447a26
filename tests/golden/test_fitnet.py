"""FitNet's hint loss.

Source: Romero et al., arXiv 1412.6550, equation 3 (a squared difference behind a convolutional regressor), with the
mean, the regressor and the weight 100 of RepDistiller, which trains it together with the labels.
"""

import numpy as np
import pytest
import torch
from torch import nn

from distrust import rng
from distrust.errors import BadInput
from distrust.methods import distillers
from distrust.methods.distillers.fitnet import regressor
from distrust.models import Taps
from distrust.seeds import seeded


def features(seed: str, *shapes: tuple[int, ...], requires_grad: bool = False) -> Taps:
    draw = rng(seed)
    drawn = [torch.randn(shape, generator=draw).requires_grad_(requires_grad) for shape in shapes]
    return Taps(torch.zeros(len(drawn[0]), 3), {f"layer{i}": feature for i, feature in enumerate(drawn)})


def bound(student: Taps, teacher: Taps, **options):
    with seeded(rng("connectors")):
        loss = distillers.fitnet(**options)
        loss.bind(student, teacher, nn.Identity())
    return loss


def numpy_regressor(modules: nn.Sequential, feature: torch.Tensor) -> np.ndarray:
    """A 1×1 convolution, the batch's own mean and variance, and ReLU, in float64."""
    convolution, norm, _ = modules
    x, w, b, scale, shift = (
        t.detach().double().numpy() for t in (feature, convolution.weight, convolution.bias, norm.weight, norm.bias)
    )
    y = np.einsum("oi,bihw->bohw", w[:, :, 0, 0], x) + b[:, None, None]
    y = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + norm.eps)
    return np.maximum(scale[:, None, None] * y + shift[:, None, None], 0)


@pytest.mark.parametrize("hint", [1, 2, 3])
def test_it_is_numpys_at_the_hint_and_its_gradient_is_there_alone(hint):
    student = features("student", (4, 3, 8, 8), (4, 5, 4, 4), (4, 7, 2, 2), requires_grad=True)
    teacher = features("teacher", (4, 6, 8, 8), (4, 9, 4, 4), (4, 8, 2, 2))
    loss = bound(student, teacher, hint=hint, weight=7.0)
    nn.init.normal_(loss.connectors[0][1].weight, generator=rng("scale"))
    nn.init.normal_(loss.connectors[0][1].bias, generator=rng("shift"))
    ours, theirs = student.features[f"layer{hint - 1}"], teacher.features[f"layer{hint - 1}"].double().numpy()
    found = loss(student, teacher, None)
    assert found.item() == pytest.approx(
        7 * np.mean((numpy_regressor(loss.connectors[0], ours) - theirs) ** 2), rel=1e-4
    )
    found.backward()
    assert [f.grad is not None for f in student.features.values()] == [i + 1 == hint for i in range(3)]
    assert ours.grad.count_nonzero() and all(p.grad is not None for p in loss.parameters())


def test_by_default_it_is_100_times_the_second_layers_and_the_labels_count_fully():
    student = features("student", (4, 3, 8, 8), (4, 5, 4, 4), (4, 7, 2, 2))
    teacher = features("teacher", (4, 6, 8, 8), (4, 9, 4, 4), (4, 8, 2, 2))
    ours, theirs = student.features["layer1"], teacher.features["layer1"].double().numpy()
    loss = bound(student, teacher)
    expected = 100 * np.mean((numpy_regressor(loss.connectors[0], ours) - theirs) ** 2)
    assert loss(student, teacher, None).item() == pytest.approx(expected, rel=1e-4)
    mark = distillers.fitnet.method
    assert (mark.label_weight, mark.auto, mark.teacher_mode, mark.warmup) == (1.0, "groups", "eval", 0.0)


@pytest.mark.parametrize(
    "ours, theirs, kind, kernel, stride",
    [
        ((8, 8), (8, 8), nn.Conv2d, (1, 1), (1, 1)),
        ((8, 6), (4, 3), nn.Conv2d, (3, 3), (2, 2)),
        ((4, 3), (8, 6), nn.ConvTranspose2d, (4, 4), (2, 2)),
        ((9, 8), (7, 8), nn.Conv2d, (3, 1), (1, 1)),
    ],
)
def test_the_regressor_leads_to_the_teachers_channels_and_size(ours, theirs, kind, kernel, stride):
    with seeded(rng("regressor")):
        modules = regressor(torch.zeros(2, 5, *ours), torch.zeros(2, 7, *theirs))
    assert [type(module) for module in modules] == [kind, nn.BatchNorm2d, nn.ReLU]
    assert (modules[0].kernel_size, modules[0].stride) == (kernel, stride)
    assert modules(torch.zeros(2, 5, *ours)).shape == (2, 7, *theirs)


def test_a_smaller_map_that_is_not_half_as_large_and_a_hint_that_is_not_there_are_refused():
    with pytest.raises(BadInput, match="from the student's 3×3 feature to the teacher's 8×8 hint"):
        regressor(torch.zeros(2, 5, 3, 3), torch.zeros(2, 7, 8, 8))
    alone = features("alone", (2, 3, 4, 4))
    with pytest.raises(BadInput, match=r"hint=2, but 1 layers are tapped \(layer0\)"):
        bound(alone, alone)
    with pytest.raises(BadInput, match=r"'layer0' is no feature map \[B,C,H,W\] but \[2, 3\]"):
        bound(features("flat", (2, 3)), features("flat", (2, 3)), hint=1)
