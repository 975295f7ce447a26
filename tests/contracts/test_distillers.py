"""Every distiller: a scalar that pulls the student to the teacher and leaves the teacher alone."""

import inspect

import pytest
import torch
from torch import nn

from distrust import rng
from distrust.errors import BadInput
from distrust.models import Taps, model, resolve, taps
from distrust.seeds import seeded
from distrust.training import distill

from . import every, same_bits, state

# What a WRN-10-1 answers to six images of `tiny`, at the places where a distiller may listen.
SHAPES = {
    "groups": {"block1": (6, 16, 8, 8), "block2": (6, 32, 4, 4), "block3": (6, 64, 2, 2)},
    "pre-relu": {
        "block2.layer.0.bn1": (6, 16, 8, 8),
        "block3.layer.0.bn1": (6, 32, 4, 4),
        "bn1": (6, 64, 2, 2),
    },
    "stem+groups": {
        "block1:input": (6, 16, 8, 8),
        "block1": (6, 16, 8, 8),
        "block2": (6, 32, 4, 4),
        "block3": (6, 64, 2, 2),
    },
    "embedding": {"fc:input": (6, 64)},
}
LABELS = torch.arange(6) % 4

# Overhaul and AB run the teacher in train mode, as their released code does.
pytestmark = pytest.mark.filterwarnings("ignore:teacher-in-train-mode")


def answers(method, seed: str, requires_grad: bool = False) -> Taps:
    """Random logits of 6 images of 4 classes, and random features where the method listens."""
    draw = rng(seed)
    logits, *features = (
        torch.randn(shape, generator=draw).requires_grad_(requires_grad)
        for shape in [(6, 4), *SHAPES[method.mark.auto].values()]
    )
    return Taps(logits, dict(zip(SHAPES[method.mark.auto], features, strict=True)))


def tensors(read: Taps) -> list[torch.Tensor]:
    return [read.logits, *read.features.values()]


def listened(method, read: Taps) -> list[torch.Tensor]:
    """What the method reads of what is tapped: the logits; or each feature, unless it has one `hint` among them."""
    if method.mark.logits_only:
        return [read.logits]
    features = list(read.features.values())
    return [features[method.options["hint"].default - 1]] if "hint" in method.options else features


def owns_connectors(method) -> bool:
    return hasattr(method.call, "bind")


def unbound(method):
    return method.call() if inspect.isclass(method.call) else method.call


def loss_of(method, images, student: Taps, teacher: Taps, **options):
    """The loss as a function of what is read, with its connectors built for these two."""
    if not inspect.isclass(method.call):
        return lambda student, teacher, y: method.call(student, teacher, y, **options)
    with seeded(rng("connectors")):
        loss = method.call(**options)
        if owns_connectors(method):
            loss.bind(student, teacher, model("wrn10-1", images, rng=rng("teacher")))
    return loss


def epochs(method) -> int:
    """Enough to go through each stage."""
    return 2 if method.mark.warmup else 1


@pytest.mark.parametrize("word", SHAPES)
def test_the_shapes_are_those_of_a_wide_resnet(word, tiny):
    net = model("wrn10-1", tiny, rng=rng(0)).eval()
    with taps(net, resolve(net, word)) as read:
        features = read(tiny.pixels(slice(0, 6))).features
    assert {path: tuple(feature.shape) for path, feature in features.items()} == SHAPES[word]


@every("distillers")
def test_it_is_one_finite_number_that_pulls_on_the_student_and_not_on_the_teacher(method, tiny):
    student, teacher = answers(method, "student", True), answers(method, "teacher", True)
    before = [t.detach().clone() for t in tensors(student) + tensors(teacher)]
    frozen = Taps(teacher.logits.detach(), {k: v.detach() for k, v in teacher.features.items()})
    loss = loss_of(method, tiny, student, frozen)(student, frozen, LABELS)
    assert loss.shape == () and loss.isfinite() and loss > 0
    loss.backward()
    read = listened(method, student)
    assert all(t.grad is not None and t.grad.isfinite().all() and t.grad.count_nonzero() for t in read)
    assert all(t.grad is None for t in tensors(teacher))
    assert all(map(torch.equal, before, tensors(student) + tensors(teacher)))


@every("distillers")
def test_a_student_that_answers_as_its_teacher_is_at_the_minimum(method, tiny):
    if owns_connectors(method):
        pytest.skip("through a connector that has not learnt anything, the student's answers are others")
    teacher, student, other = (
        answers(method, "teacher"),
        answers(method, "teacher", True),
        answers(method, "other", True),
    )
    loss = loss_of(method, tiny, student, teacher)
    at_teacher, elsewhere = loss(student, teacher, LABELS), loss(other, teacher, LABELS)
    assert at_teacher < 0.01 * elsewhere
    (at_teacher + elsewhere).backward()
    for here, there in zip(tensors(student), tensors(other), strict=True):
        assert (here.grad is None) == (there.grad is None)
        assert here.grad is None or here.grad.abs().max() < 1e-3 * there.grad.abs().max()


@every("distillers")
def test_a_step_against_the_gradient_lowers_it(method, tiny):
    student, teacher = answers(method, "student", True), answers(method, "teacher")
    loss = loss_of(method, tiny, student, teacher)
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
    paths = [] if method.mark.logits_only else resolve(student, method.mark.auto)
    with taps(student, paths) as ours, taps(teacher, paths) as theirs:
        with torch.no_grad():
            target = theirs(tiny.pixels())
        read = ours(tiny.pixels())
        loss_of(method, tiny, read, target)(read, target, tiny.y).backward()
    assert student.conv1.weight.grad.count_nonzero()


@every("distillers")
def test_distilling_leaves_both_models_and_the_images_alone(method, tiny, net):
    teacher, pixels = model("wrn10-1", tiny, rng=rng(1)).train(), tiny.x.clone()
    before = state(net), state(teacher)
    options = {"rng": rng(0), "epochs": epochs(method), "batch_size": 40}
    student = distill(net, teacher, tiny, loss=unbound(method), **options)
    assert all(map(same_bits, (state(net), state(teacher)), before))
    assert torch.equal(tiny.x, pixels)
    assert isinstance(student, nn.Module) and not any(m.training for m in student.modules())
    assert student.state_dict().keys() == net.state_dict().keys(), "what a distiller trains along stays outside"


@every("distillers")
def test_the_same_rng_gives_the_same_student(method, tiny, net):
    teacher = model("wrn10-1", tiny, rng=rng(1))
    options = {"loss": unbound(method), "epochs": epochs(method), "batch_size": 40}
    first, same, other = (distill(net, teacher, tiny, rng=rng(seed), **options).state_dict() for seed in (0, 0, 1))
    assert same_bits(first, same) and not same_bits(first, other)


@every("distillers")
def test_weight_0_switches_it_off(method, tiny):
    if "weight" not in method.options:
        pytest.skip("has no weight")
    student, teacher = answers(method, "student"), answers(method, "teacher")
    assert loss_of(method, tiny, student, teacher, weight=0.0)(student, teacher, LABELS) == 0


@every("distillers")
def test_what_owns_connectors_says_so_before_they_are_built(method):
    if not owns_connectors(method):
        pytest.skip("owns no connectors")
    with pytest.raises(BadInput, match=r"bind\(student taps, teacher taps, teacher\) first"):
        unbound(method)(answers(method, "student"), answers(method, "teacher"), LABELS)
