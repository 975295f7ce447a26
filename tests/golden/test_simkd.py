"""SimKD: the teacher's classifier on the student's projected embedding.

Source: Chen et al., arXiv 2203.14001, section 3 (a squared difference of features; the teacher's classifier is used as
it is), and their released code: the mean over all elements with weight 1, no labels and no softened outputs.
"""

import numpy as np
import pytest
import torch
from torch import nn

from distrust import model, rng
from distrust.data import Augment
from distrust.errors import BadInput
from distrust.methods import distillers
from distrust.models import Taps, taps
from distrust.seeds import seeded
from distrust.training import distill


def net(seed: int, width: int, classes: int = 4, bias: bool = True) -> nn.Sequential:
    with seeded(rng("net", seed)):
        last = nn.Linear(width, classes, bias=bias)
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


def read(net: nn.Module, x: torch.Tensor, path: str = "4:input") -> Taps:
    with taps(net, [path]) as ears:
        return ears(x)


def bound(student: Taps, teacher: Taps, teacher_model: nn.Module, **options):
    """Ready, with a BatchNorm that has seen and learnt something."""
    with seeded(rng("projector")):
        loss = distillers.simkd(**options)
        loss.bind(student, teacher, teacher_model)
        norm = loss.connectors[0][1]
        for drawn in (norm.weight.data, norm.bias.data, norm.running_mean):
            drawn.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return loss


def numpy_projector(projector: nn.Sequential, embedding: torch.Tensor) -> np.ndarray:
    """A matrix, then the batch's own mean and variance, in float64."""
    linear, norm = projector
    e, w, scale, shift = (t.detach().double().numpy() for t in (embedding, linear.weight, norm.weight, norm.bias))
    y = e @ w.T
    return scale * (y - y.mean(0)) / np.sqrt(y.var(0) + norm.eps) + shift


def test_it_is_numpys_and_its_gradient_is_not_zero(tiny):
    ours, theirs = net(0, 6), net(1, 10)
    x = tiny.pixels(slice(0, 8))
    student, teacher = read(ours, x), read(theirs, x)
    student.features["4:input"].retain_grad()
    loss = bound(student, teacher, theirs, weight=3.0)
    found = loss(student, teacher, None)
    embedding = teacher.features["4:input"].detach().double().numpy()
    expected = np.mean((numpy_projector(loss.connectors[0], student.features["4:input"]) - embedding) ** 2)
    assert found.item() == pytest.approx(3 * expected, rel=1e-4)
    found.backward()
    assert student.features["4:input"].grad.count_nonzero() and ours[0].weight.grad.count_nonzero()
    assert all(p.grad.count_nonzero() for p in loss.connectors.parameters())


def test_by_default_the_weight_is_1_and_there_are_no_labels(tiny):
    ours, theirs = net(0, 6), net(1, 10)
    student, teacher = read(ours, tiny.pixels()), read(theirs, tiny.pixels())
    once, twice = (bound(student, teacher, theirs, **given)(student, teacher, None) for given in ({}, {"weight": 2.0}))
    assert twice.item() == pytest.approx(2 * once.item())
    assert bound(student, teacher, theirs, weight=0.0)(student, teacher, None) == 0
    assert (distillers.simkd.method.label_weight, distillers.simkd.method.auto) == (0.0, "embedding")


@pytest.mark.parametrize("bias", [True, False])
def test_the_folded_students_logits_are_the_teachers_classifier_on_the_projected_embedding(bias, tiny):
    ours, theirs = net(0, 6), net(1, 10, bias=bias)
    student, teacher = read(ours, tiny.pixels()), read(theirs, tiny.pixels())
    loss = bound(student, teacher, theirs)
    before = {name: t.clone() for name, t in ours.state_dict().items()}
    loss.finish(ours)
    projected = loss.connectors[0].eval()(student.features["4:input"])
    torch.testing.assert_close(ours(tiny.pixels()), theirs[4](projected), rtol=1e-4, atol=1e-5)
    changed = {name for name, t in ours.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"4.weight", "4.bias"}


def test_the_teachers_classifier_is_a_frozen_copy(tiny):
    ours, theirs = net(0, 6), net(1, 10)
    loss = bound(read(ours, tiny.pixels()), read(theirs, tiny.pixels()), theirs)
    trained = {name for name, p in loss.named_parameters() if p.requires_grad}
    assert trained == {"connectors.0.0.weight", "connectors.0.1.weight", "connectors.0.1.bias"}
    assert torch.equal(loss.classifier.weight, theirs[4].weight) and torch.equal(loss.classifier.bias, theirs[4].bias)
    assert loss.classifier.weight.data_ptr() != theirs[4].weight.data_ptr()


def test_distilling_gives_a_student_that_answers_through_the_teachers_classifier(tiny):
    finished = []

    class Watched(distillers.simkd):
        def finish(self, student):
            super().finish(student)
            finished.append(self)

    student, teacher = model("wrn10-1", tiny, rng=rng(0)), model("wrn16-2", tiny, rng=rng(1))
    taught = distill(student, teacher, tiny, loss=Watched(), epochs=2, batch_size=40)
    (loss,) = finished
    seen = read(taught, tiny.pixels(), "fc:input")
    projected = loss.connectors[0].eval()(seen.features["fc:input"])
    torch.testing.assert_close(seen.logits, teacher.fc(projected), rtol=1e-4, atol=1e-4)
    assert {name: t.shape for name, t in taught.state_dict().items()} == {
        name: t.shape for name, t in student.state_dict().items()
    }


def test_a_student_learns_to_answer_as_its_teacher_without_labels(digits, trained):
    train = digits.train
    train = type(train)(train.x, torch.zeros_like(train.y), train.classes, name="unlabelled")
    options = {"precision": "fp32", "memory_format": "contiguous", "augment": Augment(flip=False, crop=1)}
    options |= {"epochs": 3, "batch_size": 64}
    student = distill(model("wrn10-1", train, rng=rng("student")), trained, train, loss=distillers.simkd, **options)
    with torch.no_grad():
        ours, theirs = (each(digits.test.pixels()).argmax(1) for each in (student, trained))
    assert (ours == theirs).double().mean() > 0.8


def test_a_student_without_a_bias_is_refused(tiny):
    ours, theirs = net(0, 6, bias=False), net(1, 10)
    loss = bound(read(ours, tiny.pixels()), read(theirs, tiny.pixels()), theirs)
    with pytest.raises(BadInput, match="layer '4' of the student has no bias"):
        loss.finish(ours)


def test_other_classes_and_other_layers_are_refused(tiny):
    theirs, x = net(1, 10), tiny.pixels(slice(0, 2))
    with pytest.raises(BadInput, match="classifier of 4 classes to the student, which has 5"):
        bound(read(net(0, 6, classes=5), x), read(theirs, x), theirs)
    with pytest.raises(BadInput, match=r"the layers tapped are: 2 \[2, 6, 1, 1\]\. Type layers='embedding'"):
        bound(read(net(0, 6), x, "2"), read(theirs, x), theirs)
    with pytest.raises(BadInput, match="the layers tapped are: none"):
        bound(Taps(torch.zeros(2, 4), {}), read(theirs, x), theirs)
    deep = nn.Sequential(*theirs[:4], nn.Linear(10, 10), nn.Linear(10, 4))
    with pytest.raises(BadInput, match="layer '4' is not the linear layer that gives the 4 logits"):
        bound(read(net(0, 6), x), read(deep, x), deep)
