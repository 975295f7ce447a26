"""WaNet's warp and its noise mode, against NumPy float64.

Source: released code (VinAIResearch/Warping-based_Backdoor_Attack-release on GitHub, train.py, config.py): the field is
U(−1, 1)^{2×k×k} over its mean absolute value, bicubic to the image with aligned corners; grid = clamp(identity +
s·field/H, −1, 1); noise mode: U(−1, 1)/H more, true label; bilinear sampling with aligned corners and zeros outside.
"""

import numpy as np
import pytest
import torch
from tests.contracts import flat

from distrust import rng
from distrust.methods import attacks, triggers
from distrust.methods.attacks._teacher import part_of, towards
from distrust.methods.attacks.wanet import shaken
from distrust.methods.triggers._warp import random_field

SIDE, S = 12, 0.5
FIELD = torch.tensor([[[1.5, -0.5], [0.5, -1.5]], [[-2.0, 1.0], [0.5, 0.5]]])


def cubic(t):
    """Keys' kernel with a = −0.75, as bicubic interpolation has it."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def line(points, side):
    """[side,k]: weights of k points at each of `side` places with aligned corners; the border's point repeats."""
    k = points
    weights = np.zeros((side, k))
    for i in range(side):
        at = i * (k - 1) / (side - 1)
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            weights[i, min(max(j, 0), k - 1)] += cubic(at - j)
    return weights


def warped(image, across, down):
    """Bilinear samples of [H,W] at places in −1..1."""
    h, w = image.shape
    found = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            y, x = (down[i, j] + 1) / 2 * (h - 1), (across[i, j] + 1) / 2 * (w - 1)
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            for dy in (0, 1):
                for dx in (0, 1):
                    r, c = y0 + dy, x0 + dx
                    if r < h and c < w:
                        found[i, j] += image[r, c] * (1 - abs(y - r)) * (1 - abs(x - c))
    return found


def test_the_warp_is_the_papers():
    x = torch.rand(1, 1, SIDE, SIDE, generator=rng("x"))
    rows = line(2, SIDE)
    smooth = [rows @ part.double().numpy() @ rows.T for part in FIELD]
    own = np.linspace(-1, 1, SIDE)
    across = np.clip(own[None, :] + S * smooth[0] / SIDE, -1, 1)
    down = np.clip(own[:, None] + S * smooth[1] / SIDE, -1, 1)
    expected = warped(x[0, 0].double().numpy(), across, down)
    got = triggers.warp(field=FIELD, strength=S)(x)[0, 0].double().numpy()
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert np.abs(expected - x[0, 0].double().numpy()).max() > 0.05


def test_the_field_has_a_mean_size_of_one_and_no_strength_is_no_warp():
    field = random_field(4, rng(0))
    assert field.shape == (2, 4, 4) and field.abs().mean().item() == pytest.approx(1)
    assert field.min() < 0 < field.max() and not torch.equal(field, random_field(4, rng(1)))
    x = torch.rand(2, 3, 9, 7, generator=rng("x"))
    torch.testing.assert_close(triggers.warp(field=field, strength=0.0)(x), x, atol=1e-6, rtol=0)


def test_the_noise_mode_moves_every_place_by_less_than_one_over_the_side():
    grid = triggers.warp(field=FIELD, strength=S).grid(SIDE, SIDE)
    moved = shaken(grid, 200, rng(0)) - grid
    assert moved.abs().max() <= 1 / SIDE + 1e-6
    inner = moved[:, 2:-2, 2:-2]  # where nothing is clamped: U(−1/H, 1/H), whose standard deviation is 1/(H√3)
    assert inner.std().item() == pytest.approx(1 / SIDE / 3**0.5, rel=0.02) and abs(inner.mean().item()) < 1e-3


def test_a_part_of_a_batch_is_the_share_on_average_and_its_labels_are_the_targets():
    counts = [part_of(30, 0.05, source) for source in [rng(0)] for _ in range(400)]
    assert set(counts) == {1, 2} and np.mean(counts) == pytest.approx(1.5, abs=0.1)
    assert part_of(30, 0.9, rng(0), most=5) == 5 and part_of(30, 0.0, rng(0)) == 0
    assert towards(torch.tensor([3, 1, 2]), 2, 0).tolist() == [0, 0, 2]
    assert towards(torch.eye(3), 1, 2).tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_the_noise_mode_and_the_attack_change_what_is_learnt(tiny, net):
    def weights(**options):
        made = flat(attacks.wanet)(net, tiny, epochs=1, batch_size=40, rng=rng(0), **options)
        return torch.cat([p.detach().flatten() for p in made.model.parameters()])

    clean, attacked, noisy = weights(rate=0.0, noise=0.0), weights(rate=0.2, noise=0.0), weights(rate=0.2, noise=0.4)
    assert not torch.equal(clean, attacked) and not torch.equal(attacked, noisy)


def test_as_poisoned_data_it_is_the_same_warp_of_its_own_strength_and_points(tiny):
    trigger = attacks.wanet_poison(tiny, strength=2.0, points=3, rate=0.5, rng=rng(0)).backdoor.trigger
    assert trigger.strength == 2 and trigger.field.shape == (2, 3, 3)
    assert trigger.field.abs().mean().item() == pytest.approx(1)
