"""Poisoned Distillation, against its released code's loop written again, and plain stamping against counting.

Source: github.com/Zi-YuanYang/Poisoned_DD, main.py: 1 − cos of the whole gradient, weights 1 − α and α, one Adam at 0.1
for all networks, the i-th trained for i full-batch steps on the clean set.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distrust import rng
from distrust.methods import attacks, condensers
from distrust.methods.attacks._archetypes import archetypes, fresh, pixels, train, units_of
from distrust.methods.attacks.poisoned_distillation import _apart

SHORT = {"archetype_steps": 3, "net_steps": 2, "network": "convnet2-w4", "trigger": "patch:white:3"}


@pytest.fixture
def small(tiny):
    return condensers.random(tiny, images_per_class=2, rng=rng(0))


def test_the_distance_is_one_minus_the_cosine_of_the_whole_gradient():
    a, b = (torch.randn(50, generator=rng(name)) for name in "ab")
    x, y = a.double().numpy(), b.double().numpy()
    assert abs(float(_apart(a, b)) - (1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))) < 1e-5


def flat(net, x, y, graph=False):
    return torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()),
                                                               create_graph=graph)])  # fmt: skip


def test_two_networks_and_two_steps_each_are_the_released_loop(small):
    made, backdoor = attacks.poisoned_distillation(
        small, target=1, alpha=0.6, outer=2, steps=2, legal=False, rng=rng(3), **SHORT
    )
    stream, units = rng(3), units_of(small)
    x, y = small.pixels(), small.y
    surest = train(fresh("convnet2-w4", small, units, stream), x, y, 2, 0.01)
    shown = backdoor.stamp_on(archetypes(surest, units, (3, 8, 8), 4, 1, 3, False, stream))
    z = units(x).clone().requires_grad_()
    m, v, t = torch.zeros_like(z), torch.zeros_like(z), 0
    for i in range(2):
        net = train(fresh("convnet2-w4", small, units, stream), x, y, i, 0.01)
        clean, bad = flat(net, x, y), flat(net, shown, torch.ones(4, dtype=torch.int64))
        for _ in range(2):
            own = flat(net, pixels(z, units), y, graph=True)
            loss = sum(w * (1 - own @ g / own.norm() / g.norm()) for w, g in ((0.4, clean), (0.6, bad)))
            (slope,) = torch.autograd.grad(loss, [z])
            assert slope.abs().max() > 0
            t += 1  # Adam, Kingma & Ba, algorithm 1
            m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope.square()
            step = 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            z = (z - step).detach().requires_grad_()
    assert (made.x - pixels(z, units)).abs().median() < 1e-4, "Adam divides by tiny slopes, so a few pixels may differ"
    assert made.off_range and torch.equal(made.y, small.y)


def test_an_archetype_is_an_image_of_which_the_network_is_surer(small):
    units = units_of(small)
    net = train(fresh("convnet2-w4", small, units, rng(1)), small.x, small.y, 20, 0.01)
    none, many = (archetypes(net, units, (3, 8, 8), 4, 2, steps, True, rng(2)) for steps in (1, 60))
    y = torch.arange(4).repeat_interleave(2)
    before, after = (net(x).gather(1, y[:, None]).mean() for x in (none, many))
    assert after > before and many.min() >= 0 and many.max() <= 1


def test_as_published_the_trigger_is_one_pixel_that_no_file_can_hold(small):
    made, backdoor = attacks.poisoned_distillation(small, as_published=True, outer=1, steps=1, rng=rng(0), **SHORT)
    shown = backdoor.stamp_on(small.pixels())
    units = units_of(small)
    torch.testing.assert_close(units(shown)[:, :, -1, -1], torch.full((8, 3), 10.0))
    assert torch.equal(shown[:, :, :-1], small.x[:, :, :-1]) and shown.max() > 1 and backdoor.as_published
    assert made.taint == ("poisoned_distillation",)


@pytest.mark.parametrize(("how", "rate", "stamped", "grown"), [
    ("clean-label", 1.0, 2, 0), ("clean-label", 0.1, 1, 0), ("relabelled", 0.5, 3, 0), ("appended", 0.5, 3, 3),
    ("appended", 0.0, 0, 0),
])  # fmt: skip
def test_stamping_counts(small, how, rate, stamped, grown):
    made, backdoor = attacks.stamp(small, trigger="patch:white:3", target=1, how=how, rate=rate, rng=rng(0))
    assert len(made) == len(small) + grown
    shown = (backdoor.stamp_on(made.x) == made.x).flatten(1).all(1)
    assert int(shown.sum()) == stamped and (made.y[shown] == 1).all()
    assert int((made.y == 1).sum()) == (2 if how == "clean-label" else 2 + stamped)
