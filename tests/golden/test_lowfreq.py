"""The smooth trigger: DeepFool towards a class, the low-pass, the scaling, against NumPy float64.

Source: BackdoorBench's released code (resource/lowFrequency: deepfool.py, gauss_smooth.py, universal_pert.py):
r += |f|/‖w‖ · w/‖w‖, w = ∇(z_target − z_first), times 1.02; a window of 30 pixels on a grid of step 5 with σ 30, so σ
is 6 pixels, padded by 14 and 15 zeros; 0.2·(v − min)/(max − min).
"""

import numpy as np
import pytest
import torch
from tests.contracts import flat
from torch import nn

from distrust import rng
from distrust.errors import BadInput
from distrust.methods import attacks
from distrust.methods.attacks.lowfreq import _done, deepfool, low_pass, scaled

SMALL = {"network": "convnet2-w4", "network_epochs": 1, "images": 6, "passes": 2, "steps": 20}


def test_the_low_pass_is_the_released_one():
    v = torch.randn(2, 9, 7, generator=rng("v"))
    grid = (np.arange(30) - 14.5) * 5
    weights = np.exp(-((grid / 30) ** 2) * 0.5)
    weights /= weights.sum()
    padded = np.pad(v.double().numpy(), ((0, 0), (14, 15), (14, 15)))
    rows = np.stack([np.tensordot(weights, padded[:, i : i + 30], (0, 1)) for i in range(9)], 1)
    expected = np.stack([np.tensordot(rows[:, :, j : j + 30], weights, (2, 0)) for j in range(7)], 2)
    np.testing.assert_allclose(low_pass(v, 6.0, 30).double().numpy(), expected, atol=1e-6)
    assert low_pass(v, 6.0, 31).shape == v.shape


def test_the_scaling_takes_the_whole_range():
    got = scaled(torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]]), 0.2)
    np.testing.assert_allclose(got.double().numpy(), [[[0, 0.05], [0.1, 0.2]]], atol=1e-7)


def test_deepfool_reaches_the_boundary_of_a_linear_network_in_one_step():
    """z = Wx: the nearest point where z_2 = z_first lies |f|/‖w‖ away along w, and 1.02 times that is beyond it."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    weight = torch.randn(3, 12, generator=rng("W"))
    with torch.no_grad():
        net[1].weight.copy_(weight)
    x = next(x for x in torch.rand(50, 1, 3, 2, 2, generator=rng("x")) if int((weight @ x.flatten()).argmax()) == 0)
    z, w = (
        weight.double().numpy() @ x.double().numpy().flatten(),
        weight.double().numpy()[2] - weight.double().numpy()[0],
    )
    expected = 1.02 * abs(z[2] - z[0]) / (w @ w) * w
    got = deepfool(net.requires_grad_(False), x, 2, 0.02, 1)
    np.testing.assert_allclose(got.double().numpy().flatten(), expected, atol=1e-6)
    assert got.count_nonzero() == 12, "it has a gradient"
    z = net(x + got)[0]
    assert z[2] > z[0]
    assert not deepfool(net, x, 0, 0.02, 5).any(), "it is there already"


def test_where_the_slope_vanishes_deepfool_ends_where_it_came_to():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.cat([torch.full((1, 1), 1e30), x.sum().view(1, 1) * 0], 1)

    assert deepfool(Flat(), torch.rand(1, 1, 2, 2, generator=rng("x")), 1, 0.02, 5).eq(0).all()


def test_the_search_ends_when_enough_are_fooled_or_nothing_moves():
    assert not _done([], 0.0) and _done([0.1, 0.25], 0.2) and not _done([0.25, 0.1], 0.2)
    assert (
        _done([0.9, 0.1, 0.1, 0.105, 0.1, 0.1], 0.2) and not _done([0.1] * 4, 0.2) and not _done([0.1, 0.12] * 3, 0.2)
    )


def test_the_trigger_is_smooth_takes_its_range_and_is_added(tiny):
    poisoned, backdoor = flat(attacks.lowfreq)(tiny, target=1, rate=0.2, amplitude=40 / 255, **SMALL, rng=rng(0))
    grey = backdoor.trigger.delta * 255
    assert grey.min() == 0 and grey.max() == pytest.approx(40, abs=1e-3)
    steps = (grey[:, 1:] - grey[:, :-1]).abs().max(), (grey[:, :, 1:] - grey[:, :, :-1]).abs().max()
    assert max(steps) < 12, "neighbours are alike"
    rows = poisoned.y != tiny.y
    expected = np.clip(tiny.x[rows].double().numpy() + grey.double().numpy(), 0, 255)
    np.testing.assert_allclose(poisoned.x[rows].double().numpy(), np.rint(expected), atol=1e-3)


def test_a_network_that_knows_one_class_only_is_refused(tiny):
    alone = tiny.replace(y=(torch.arange(80) < 2).long())
    with pytest.raises(BadInput, match=r"calls every image of the search class 0\. Give more network_epochs"):
        flat(attacks.lowfreq)(alone, target=0, **{**SMALL, "network_epochs": 8}, rng=rng(0))
