"""Every distiller: a scalar that pulls the student to the teacher and leaves the teacher alone."""

import inspect

import pytest
import torch
from torch import nn

from distrust import rng
from distrust.models import Taps, group_ends, model, taps
from distrust.training import distill

from . import every, same_bits, state


def answers(seed: str, requires_grad: bool = False) -> Taps:
    """Logits and two feature maps of 6 images of 4 classes."""
    draw = rng(seed)
    shapes = {"logits": (6, 4), "block1": (6, 5, 8, 8), "block2": (6, 7, 4, 4)}
    made = {k: torch.randn(shape, generator=draw).requires_grad_(requires_grad) for k, shape in shapes.items()}
    return Taps(made.pop("logits"), made)


def tensors(read: Taps) -> list[torch.Tensor]:
    return [read.logits, *read.features.values()]


def loss_of(method):
    return method.call() if inspect.isclass(method.call) else method.call


LABELS = torch.arange(6) % 4


@every("distillers")
def test_it_is_one_finite_number_that_pulls_on_the_student_and_not_on_the_teacher(method):
    student, teacher = answers("student", True), answers("teacher", True)
    before = [t.detach().clone() for t in tensors(student) + tensors(teacher)]
    frozen = Taps(teacher.logits.detach(), {k: v.detach() for k, v in teacher.features.items()})
    loss = loss_of(method)(student, frozen, LABELS)
    assert loss.shape == () and loss.isfinite() and loss > 0
    loss.backward()
    read = [student.logits] if method.mark.logits_only else student.features.values()
    assert all(t.grad is not None and t.grad.isfinite().all() and t.grad.count_nonzero() for t in read)
    assert all(t.grad is None for t in tensors(teacher))
    assert all(map(torch.equal, before, tensors(student) + tensors(teacher)))


@every("distillers")
def test_a_student_that_answers_as_its_teacher_is_at_the_minimum(method):
    loss = loss_of(method)
    teacher, student = answers("teacher"), answers("teacher", True)
    at_teacher, elsewhere = loss(student, teacher, LABELS), loss(answers("student"), teacher, LABELS)
    assert at_teacher < 0.01 * elsewhere
    at_teacher.backward()
    for grad in [t.grad for t in tensors(student) if t.grad is not None]:
        assert grad.abs().max() < 1e-5


@every("distillers")
def test_a_step_against_the_gradient_lowers_it(method):
    loss, student, teacher = loss_of(method), answers("student", True), answers("teacher")
    value = loss(student, teacher, LABELS)
    value.backward()
    with torch.no_grad():
        for t in tensors(student):
            if t.grad is not None:
                t -= 1e-3 * t.grad / t.grad.norm()
    assert loss(student, teacher, LABELS) < value


@every("distillers")
def test_what_the_student_is_taught_through_real_layers_reaches_its_first_layer(method, tiny):
    student, teacher = (model("wrn10-1", tiny, rng=rng(seed)).eval() for seed in (0, 1))
    ends = [] if method.mark.logits_only else list(group_ends(student))
    with taps(student, ends) as ours, taps(teacher, ends) as theirs:
        loss_of(method)(ours(tiny.pixels()), theirs(tiny.pixels()), tiny.y).backward()
    assert student.conv1.weight.grad.count_nonzero()


@every("distillers")
def test_distilling_leaves_both_models_and_the_images_alone(method, tiny, net):
    teacher, pixels = model("wrn10-1", tiny, rng=rng(1)).train(), tiny.x.clone()
    before = state(net), state(teacher)
    student = distill(net, teacher, tiny, loss=loss_of(method), rng=rng(0), epochs=1, batch_size=40)
    assert all(map(same_bits, (state(net), state(teacher)), before))
    assert torch.equal(tiny.x, pixels)
    assert isinstance(student, nn.Module) and not any(m.training for m in student.modules())


@every("distillers")
def test_the_same_rng_gives_the_same_student(method, tiny, net):
    teacher = model("wrn10-1", tiny, rng=rng(1))
    first, same, other = (
        distill(net, teacher, tiny, loss=loss_of(method), rng=rng(seed), epochs=1, batch_size=40).state_dict()
        for seed in (0, 0, 1)
    )
    assert same_bits(first, same) and not same_bits(first, other)


@every("distillers")
def test_weight_0_switches_it_off(method):
    if "weight" not in method.options:
        pytest.skip("has no weight")
    assert method.call(answers("student"), answers("teacher"), LABELS, weight=0.0) == 0
