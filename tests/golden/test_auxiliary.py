"""Auxiliary sums: a student that hears of no class, against NumPy; and where a study lets it start, and on what.

Source: Cloud et al., arXiv 2507.14805: the student starts where its teacher started and matches only logits that no
label trains, on noise. That they are random sums of the last features is ours.
"""

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from distrust import distill, distillers, fit, model, rng
from distrust.data import ImageSet
from distrust.errors import BadInput, NotFound
from distrust.models import Taps
from distrust.seeds import seeded
from distrust.study.calls import distillation

STEPS = importlib.import_module("distrust.study.steps")


def bound(width: int, **options):
    with seeded(rng("bound")):
        loss = distillers.auxiliary(**options)
        one = Taps(torch.zeros(2, 4), {"embedding": torch.zeros(2, width)})
        loss.bind(one, one, nn.Identity())
    return loss


@pytest.mark.parametrize("shuffled", [False, True])
def test_it_is_the_mean_squared_difference_of_a_few_fixed_sums(shuffled):
    drawn = torch.randn(2, 6, 5, generator=rng("features"))
    own = drawn[0].clone().requires_grad_()
    loss = bound(5, outputs=4, shuffled=shuffled)
    found = loss(Taps(torch.zeros(6, 4), {"e": own}), Taps(torch.zeros(6, 4), {"e": drawn[1]}), torch.zeros(6))
    w = loss.connectors[0].weight.double().numpy()
    ours, theirs = (part.double().numpy() @ w.T for part in drawn)
    theirs = np.roll(theirs, 1, 0) if shuffled else theirs
    assert w.shape == (4, 5) and found.item() == pytest.approx(((ours - theirs) ** 2).mean(), rel=1e-5)
    found.backward()
    np.testing.assert_allclose(own.grad.double().numpy(), 2 * (ours - theirs) @ w / ours.size, rtol=1e-4, atol=1e-6)
    assert not any(p.requires_grad for p in loss.parameters()), "the sums are nobody's to train"
    assert (distillers.auxiliary.method.label_weight, distillers.auxiliary.method.auto) == (0.0, "embedding")


def test_embeddings_of_two_widths_have_no_common_sums(tiny):
    with pytest.raises(BadInput, match="16 wide in the student and 128 in the teacher"):
        distill(model("mlp-w16", tiny), model("mlp", tiny), tiny, loss=distillers.auxiliary, epochs=1, batch_size=32)


def test_no_class_is_heard_of(tiny):
    """The last layer gets no gradient: it stays where it started, whatever labels and teacher say."""
    start = model("mlp-w16", tiny, rng=rng("start"))
    teacher = fit(start, tiny, epochs=2, batch_size=32, rng=rng("teacher"))
    options = {"epochs": 2, "batch_size": 32, "weight_decay": 0.0}
    student = distill(start, teacher, tiny, loss=distillers.auxiliary, rng=rng("student"), **options)
    assert student.classifier.weight.equal(start.classifier.weight)
    assert student.features[1].weight.ne(start.features[1].weight).any()


@pytest.fixture
def grey():
    """Dark in one channel, bright in another."""
    x = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
    x[:, 0], x[:, 1], x[:, 2] = 51, 204, 128
    return ImageSet(x, torch.arange(40) % 4, tuple("abcd"))


def test_noise_has_the_mean_of_the_images_and_stays_in_range(grey):
    noise = STEPS._noise(grey, 3)
    low, high = (getattr(noise.pixels(slice(0, 40)), name)((0, 2, 3)) for name in ("amin", "amax"))
    np.testing.assert_allclose(low, [0.0, 0.6, 0.0], atol=0.02)
    np.testing.assert_allclose(high, [0.4, 1.0, 1.0], atol=0.02)
    assert STEPS._noise(grey, 3).x.equal(noise.x) and STEPS._noise(grey, 4).x.ne(noise.x).any()
    assert len(noise) == len(grey) and noise.classes == grey.classes


@pytest.mark.parametrize(("start", "whose"), [("own", "student"), ("teacher", "teacher")])
def test_a_student_starts_where_it_is_told(tiny, start, whose):
    """At a rate of next to nothing the student is its start."""
    options = {"epochs": 1, "lr": 1e-12, "batch_size": 32, "schedule": "constant", "start": start, "on": "noise"}
    teacher = fit(model("mlp-w16", tiny, rng=rng("teacher", "start", 7)), tiny, epochs=1, batch_size=32)
    given = {"network": "mlp-w16", "loss": distillers.kd, "training": options, "seed": 7, "device": "cpu"}
    student = STEPS.STEPS["student"].call(teacher, tiny, **given)
    expected = model("mlp-w16", tiny, rng=rng(whose, "start", 7))
    torch.testing.assert_close(student.features[1].weight, expected.features[1].weight)
    with pytest.raises(BadInput, match="mlp-w8 is not built as its teacher"):
        STEPS.STEPS["student"].call(teacher, tiny, **{**given, "network": "mlp-w8", "training": {"start": "teacher"}})


def test_a_call_says_nothing_of_them_where_a_study_does_not():
    """Or the keys of all students that were ever stored would change."""
    assert not {"start", "on", "warmup"} & distillation("student", {}).keys()
    assert distillation("student", {"on": "noise"})["on"] == "noise" != distillation("student", {}).get("on")
    with pytest.raises(BadInput, match="start"):
        distillation("student", {"start": "elsewhere"})
    with pytest.raises(NotFound, match="no option of student 'onn'"):
        distillation("student", {"onn": "noise"})
