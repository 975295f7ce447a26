"""Label-consistent attack: corners, the perturbation, the robust objective, against NumPy float64.

Source: BackdoorBench's released code (attack/lc.py and resource/label-consistent): a 3×3 pattern of +1 and −1 in the
upper left corner, mirrored to the other three; L∞ 8/255, steps of 1.5/255 up the cross-entropy, no random start.
"""

import numpy as np
import pytest
import torch
from tests.contracts import flat
from torch import nn
from torch.nn import functional as F

from distrust import rng
from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.measurement import Backdoor
from distrust.methods import attacks, triggers
from distrust.methods.attacks._surrogate import away, robust

CORNER = np.array([[1, -1, -1], [-1, 1, -1], [1, -1, 1]])


@pytest.mark.parametrize("amplitude", [255, 32])
def test_the_corners_mirror_each_other(amplitude):
    raw = torch.randint(256, (2, 3, 8, 10), generator=rng("raw"))
    expected = raw.double().numpy()
    expected[:, :, :3, :3] += amplitude * CORNER
    expected[:, :, :3, -3:] += amplitude * CORNER[:, ::-1]
    expected[:, :, -3:, :3] += amplitude * CORNER[::-1]
    expected[:, :, -3:, -3:] += amplitude * CORNER[::-1, ::-1]
    got = Backdoor(triggers.corners(amplitude), 0).stamp_on(raw.float() / 255).double().numpy() * 255
    np.testing.assert_allclose(got, np.clip(expected, 0, 255), atol=1e-3)
    mirrored = (
        Backdoor(triggers.corners(amplitude), 0).stamp_on(raw.float().flip(3) / 255).flip(3).double().numpy() * 255
    )
    np.testing.assert_allclose(mirrored, got, atol=1e-3)


def test_corners_that_overlap_are_refused():
    with pytest.raises(BadInput, match="do not fit on images of 5×9; they need 6×6"):
        triggers.corners()(torch.zeros(1, 3, 5, 9))


def two_classes(seed="net"):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 12, generator=rng(seed)))
        net[1].bias.zero_()
    return net


def test_steps_go_up_the_cross_entropy_within_the_bound():
    """Of two classes the gradient's sign is that of w_other − w_y, wherever the image is."""
    net, bound, size = two_classes(), 0.1, 0.04
    x = torch.rand(4, 3, 2, 2, generator=rng("x"))
    y = torch.tensor([0, 1, 0, 1])
    w = net[1].weight.detach().double().numpy()
    expected = x.double().numpy()
    start, sign = expected.copy(), np.sign((w[1] - w[0])[None] * np.where(y.numpy() == 0, 1, -1)[:, None])
    for _ in range(4):
        expected = expected + size * sign.reshape(4, 3, 2, 2)
        expected = np.clip(np.clip(expected, start - bound, start + bound), 0, 1)
    got = away(net, x, y, bound=bound, steps=4, size=size)
    np.testing.assert_allclose(got.double().numpy(), expected, atol=1e-6)
    assert F.cross_entropy(net(got), y) > F.cross_entropy(net(x), y), "it has a gradient, and goes up it"
    assert torch.equal(away(net, x, y, bound=bound, steps=0, size=size), x)


def test_the_robust_objective_is_the_loss_of_changed_images_and_leaves_modes_alone():
    net = two_classes().train()
    x, y = torch.rand(4, 3, 2, 2, generator=rng("x")), torch.tensor([0, 1, 0, 1])
    loss = robust(0.1, 2, 0.05)(net, x, y)
    changed = away(net, x, y, bound=0.1, steps=2, size=0.05)
    assert loss.item() == pytest.approx(F.cross_entropy(net(changed), y).item())
    loss.backward()
    assert net[1].weight.grad.count_nonzero() == 24 and net.training and net[1].weight.requires_grad


def images():
    x = torch.randint(40, 215, (40, 3, 8, 8), generator=rng("clean_label"), dtype=torch.uint8)
    return ImageSet(x, torch.arange(40) % 2, ("a", "b"), name="two")


@pytest.mark.parametrize("stamp", ["before", "after"])
def test_poisons_keep_their_label_and_the_bound_outside_of_the_corners(stamp):
    train = images()
    options = {
        "network": "convnet2-w4",
        "network_epochs": 1,
        "robust_steps": 1,
        "steps": 6,
        "rate": 0.5,
        "stamp": stamp,
    }
    poisoned, backdoor = flat(attacks.clean_label)(train, target=1, rng=rng(0), **options)
    moved = poisoned.x.int() - train.x.int()
    rows = moved.flatten(1).any(1)
    assert rows.sum() == 10 and (train.y[rows] == 1).all() and torch.equal(poisoned.y, train.y)
    inner = moved[rows][:, :, 3:-3]
    assert inner.abs().max() == 8, "6 steps of 1.5 reach ε"
    late = poisoned.late is not None and torch.equal(poisoned.late.rows, rows)
    assert late == (stamp == "after") and backdoor.stamp == stamp
    loud = moved[rows][:, :, :3, :3].abs().max()
    assert loud > 30 if stamp == "before" else loud <= 8
