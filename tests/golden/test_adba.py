"""ADBA's three losses.

Source: Ge et al., ACM MM 2021, as re-implemented in github.com/SomeBottle/8ackW3ak (reprod_modules/adba/adba.py):
teacher CE + β·CE(triggered, target); shadow α·h²·KL + (1 − α)·CE; trigger CE + CE + μ·‖M‖_p, the norm not squared.
"""

import copy

import numpy as np
import pytest
import torch

from distrust import rng
from distrust.errors import NotFound
from distrust.methods import attacks
from distrust.methods.attacks import _teacher
from distrust.methods.attacks.adba import shadow_loss, teacher_loss, trigger_loss

draw = rng("adba", "golden")
A, B = (torch.randn(6, 4, generator=draw) for _ in range(2))
Y, GOAL = torch.arange(6) % 4, torch.full((6,), 2)


def log_softmax(x: torch.Tensor, h: float = 1.0) -> np.ndarray:
    z = x.double().numpy() / h
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def ce(x: torch.Tensor, y: torch.Tensor) -> float:
    return -log_softmax(x)[np.arange(6), y.numpy()].mean()


def test_the_teachers():
    assert teacher_loss(A, B, Y, GOAL, 0.3).item() == pytest.approx(ce(A, Y) + 0.3 * ce(B, GOAL), rel=1e-5)


def test_the_shadows():
    p, q = log_softmax(B, 2.0), log_softmax(A, 2.0)
    kl = (np.exp(p) * (p - q)).sum(1).mean()
    expected = 0.7 * 4 * kl + 0.3 * ce(A, Y)
    assert shadow_loss(A, B, Y, 0.7, 2.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_the_triggers(p):
    mask = torch.rand(1, 5, 5, generator=rng("mask"))
    norm = (mask.double().numpy() ** p).sum() ** (1 / p)
    expected = ce(A, GOAL) + ce(B, GOAL) + 0.1 * norm
    assert trigger_loss(A, B, GOAL, mask, 0.1, p).item() == pytest.approx(expected, rel=1e-5)


def test_every_loss_reaches_what_it_trains():
    a, b, mask = A.clone().requires_grad_(), B.clone().requires_grad_(), torch.rand(1, 3, 3).requires_grad_()
    total = teacher_loss(a, b, Y, GOAL, 0.3) + shadow_loss(a, B, Y, 0.5, 1.0)
    (total + trigger_loss(a, b, GOAL, mask, 0.1, 2)).backward()
    assert all(t.grad.count_nonzero() for t in (a, b, mask))


def test_the_mask_starts_whole_and_keeps_its_bound(tiny, net):
    made = attacks.adba(net, tiny, opacity=0.5, epochs=1, batch_size=40, shadow="wrn10-1", rng=rng(0))
    mask = made.backdoor.trigger.mask
    assert mask.min() >= 0 and mask.max() <= 0.5 and mask.mean() > 0.4
    assert all(len(losses) == 3 for losses in made.notes["loss"])


@pytest.mark.parametrize("way", [("fp32", "contiguous"), ("bf16", "channels_last")])
def test_a_weight_that_is_trained_inside_is_the_weight_that_is_used(tiny, net, monkeypatch, way):
    """Autocast's cache would go on with the first step's weights; the model then fails in eval mode."""
    monkeypatch.setattr(_teacher, "fastest", lambda *args: way)
    trained, x = copy.deepcopy(net), tiny.pixels()
    with _teacher.fast(tiny, 8, trained):
        before = trained(x)
        with torch.no_grad():
            trained.conv1.weight.add_(1.0)
        assert not torch.equal(trained(x), before)


def test_an_unknown_shadow_is_refused(tiny, net):
    with pytest.raises(NotFound, match="model 'wrn9'"):
        attacks.adba(net, tiny, shadow="wrn9", epochs=1)
