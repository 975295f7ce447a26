"""Every self-supervised loss: a scalar from the features of two views, from which an encoder learns without labels."""

import copy

import pytest
import torch

from distrust import rng
from distrust.registry import registry
from distrust.seeds import seeded
from distrust.training import pretrain

from . import every, same_bits, state

FAST = {"epochs": 1, "batch_size": 40, "precision": "fp32", "memory_format": "contiguous"}


@pytest.fixture
def views():
    """Features [B,D] of two views that differ a little."""
    one = torch.randn(24, 10, generator=rng("one"))
    return one, one + 0.1 * torch.randn(24, 10, generator=rng("two"))


def bound(method, seed=0):
    """The loss, made for features of ten dimensions."""
    with seeded(rng(seed)):
        loss = method.made({})
        loss.bind(10)
    return loss


@every("objectives")
def test_its_loss_is_a_finite_number_with_a_gradient(method, views):
    loss, (one, two) = bound(method), [view.clone().requires_grad_() for view in views]
    value = loss(one, two)
    assert value.shape == () and value.isfinite()
    value.backward()
    for gradient in (one.grad, two.grad, *(p.grad for p in loss.parameters() if p.requires_grad)):
        assert gradient is not None and gradient.isfinite().all() and gradient.count_nonzero() > 0
    assert torch.equal(one.detach(), views[0]) and torch.equal(two.detach(), views[1]), "the features changed"


@every("objectives")
def test_its_own_networks_can_lower_it(method, views):
    loss, told = bound(method), []
    solver = torch.optim.Adam(loss.parameters(), 1e-2)
    for _ in range(20):
        told.append(loss(*views))
        solver.zero_grad()
        told[-1].backward()
        solver.step()
    assert told[-1] < told[0]


@every("objectives")
def test_what_it_is_bound_to_is_drawn_where_it_is_seeded(method, views):
    first, same, other = (bound(method, seed) for seed in (0, 0, 1))
    assert same_bits(first.state_dict(), same.state_dict()) and not same_bits(first.state_dict(), other.state_dict())
    assert torch.equal(copy.deepcopy(first)(*views), first(*views))
    assert all(getattr(first, name) == option.default for name, option in method.options.items())


@every("objectives")
def test_an_encoder_learns_and_nothing_that_came_in_changes(method, tiny, encoder):
    before, x = state(encoder), tiny.x.clone()
    learnt = pretrain(encoder, tiny, loss=method.call, rng=rng(0), **FAST)
    assert same_bits(state(encoder), before) and torch.equal(tiny.x, x)
    own = {t.data_ptr() for t in encoder.state_dict().values()}
    assert not any(t.data_ptr() in own for t in learnt.state_dict().values()), "weights are shared"
    assert not any(module.training for module in learnt.modules()) and learnt.spec == encoder.spec
    assert all(t.isfinite().all() for t in learnt.state_dict().values())
    moved = [not torch.equal(p, q) for p, q in zip(encoder.parameters(), learnt.parameters(), strict=True)]
    assert all(moved), "some weights learn nothing"
    assert learnt(tiny.pixels()).shape == (80, 64)


@every("objectives")
def test_the_same_rng_gives_the_same_bits_whatever_the_labels(method, tiny, encoder):
    other_labels = tiny.replace(y=tiny.y.flip(0))
    runs = [(tiny, 0), (tiny, 0), (other_labels, 0), (tiny, 1)]
    made = [pretrain(encoder, images, loss=method.call, rng=rng(seed), **FAST) for images, seed in runs]
    first, same, relabelled, other = (net.state_dict() for net in made)
    assert same_bits(first, same) and same_bits(first, relabelled)
    assert not same_bits(first, other), "rng decides nothing"


def test_the_kind_is_there():
    assert {"simclr", "simsiam", "vicreg"} <= registry.kind("objectives").keys()
