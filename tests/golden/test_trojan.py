"""Trojaning: the neurons that are chosen, the steps of the square, the trigger, against NumPy float64.

Source: BackdoorBench's released code (attack/trojannn.py): of the inputs of `linear` the ones with the largest
Σ_k |w_kj|; on a picture that is black but for the mask, δ ← clamp(δ − 0.1·sign ∇Σ_j (φ_j − 100)²); added to images.
"""

import numpy as np
import pytest
import torch
from tests.contracts import flat
from torch import nn

from distrust import rng
from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.methods import attacks
from distrust.methods.attacks.trojan import connected

WEIGHT = torch.tensor([[1.0, -3.0, 0.5, 2.0], [-1.5, 0.0, 0.5, 2.0]])


def test_the_best_connected_inputs_are_chosen_whatever_the_sign():
    """Σ|w| = 2.5, 3, 1, 4."""
    assert connected(WEIGHT, 3).tolist() == [3, 1, 0]
    assert connected(torch.ones(2, 3), 2).tolist() == [0, 1], "of equals the lowest"
    with pytest.raises(BadInput, match="neurons=5, but 4 enter the last layer"):
        connected(WEIGHT, 5)


@pytest.fixture
def linear():
    """φ_j = Σ pixels·A_j, then a layer of two classes: every gradient is known."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0 + 1].weight.copy_(torch.rand(4, 192, generator=rng("A")) - 0.5)
        net[2].weight.copy_(WEIGHT)
    return net


@pytest.fixture
def images():
    x = torch.randint(256, (40, 3, 8, 8), generator=rng("trojan"), dtype=torch.uint8)
    return ImageSet(x, torch.arange(40) % 2, ("a", "b"), name="two")


def test_three_steps_are_the_papers_and_the_trigger_is_added(linear, images):
    options = {"neurons": 1, "value": 20.0, "size": 2, "inset": 1, "steps": 3, "step_size": 0.05, "epochs": 1}
    _, backdoor, notes = flat(attacks.trojan)(linear, images, **options, batch_size=20, rng=rng(3))
    mask = np.zeros((3, 8, 8))
    mask[:, 5:7, 5:7] = 1
    delta = torch.rand(1, 3, 8, 8, generator=rng(3))[0].double().numpy() * mask
    row, losses = linear[1].weight[3].detach().double().numpy().reshape(3, 8, 8), []
    for _ in range(3):
        gap = (row * delta).sum() - 20
        losses.append(gap**2)
        delta = np.clip(delta - 0.05 * np.sign(2 * gap * row), 0, 1) * mask
    assert notes["neurons"] == [3] and notes["loss"] == pytest.approx(losses, rel=1e-5)
    assert losses[2] < losses[0], "it has a gradient, and follows it"
    grey = np.rint(delta * 255)
    x = images.pixels(slice(0, 5))
    expected = np.clip(np.rint(x.double().numpy() * 255) + grey, 0, 255)
    np.testing.assert_allclose(backdoor.stamp_on(x).double().numpy() * 255, expected, atol=1e-3)
    assert (expected == 255).any(), "some sums are clamped"


def test_it_ends_when_the_neurons_are_there_and_a_square_that_does_not_fit_is_refused(linear, images):
    done = flat(attacks.trojan)(linear, images, steps=50, tolerance=1e9, epochs=1, size=2, rng=rng(0))
    assert len(done.notes["loss"]) == 1
    with pytest.raises(BadInput, match=r"a square of 6 with inset 4 does not fit on images of 8×8"):
        flat(attacks.trojan)(linear, images, size=6, epochs=1)
