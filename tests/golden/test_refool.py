"""Reflections, against NumPy float64; where their pictures come from.

Source: released code of Refool (github.com/DreamtaleCore/Refool, blend_images), as BackdoorBench's attack/refool.py
carries it: gamma 2.2; a ghost is a·r shifted + (1 − a)·r, cropped to where both are, resized bicubically, times 1 − α;
out of focus is a Gaussian blur of 2⌈2σ⌉ + 1 pixels, less (m − 1)·b with m the mean of what exceeds 1, under a window
√(g ⊗ g) with maximum 1, times 1 − α/2; plus α·t.
"""

import math
import re

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from scipy.stats import norm

from distrust import rng
from distrust.data import ImageSet
from distrust.errors import BadInput, NotFound
from distrust.methods import attacks, triggers
from distrust.methods.triggers.reflection import which
from distrust.registry import registry
from distrust.study.calls import call_of

PICTURES = torch.rand(1, 3, 16, 16, generator=rng("pictures")) * 0.5 + 0.5
X = torch.rand(3, 3, 16, 16, generator=rng("x"))


def draws(seed, offset=3):
    """What the first picture draws, in order: whether it is a ghost, b, and then its own."""
    source = rng("reflection", seed)
    coin = torch.rand(1, generator=source).item()
    b = 1.08 + torch.rand(1, generator=source).item() / 10
    return source, coin, b


def test_a_ghost_is_the_released_one():
    source, _, _ = draws(5)
    dy, dx = torch.randint(1, 4, (2,), generator=source).tolist()
    u, v = torch.rand(2, generator=source).tolist()
    a = abs(round(u) - (0.15 + 0.35 * v))
    r = PICTURES[0].double().numpy() ** 2.2
    padded = a * np.pad(r, ((0, 0), (0, dy), (0, dx))) + (1 - a) * np.pad(r, ((0, 0), (dy, 0), (dx, 0)))
    cut = torch.from_numpy(padded[:, dy:-dy, dx:-dx])[None]
    ghost = torch.nn.functional.interpolate(cut, (16, 16), mode="bicubic")[0].clamp(0, 1).numpy()
    expected = np.clip((0.6 * ghost + 0.4 * X.double().numpy() ** 2.2) ** (1 / 2.2), 0, 1)
    got = triggers.reflection(PICTURES, ghosts=1.0, seed=5)(X).double().numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert np.abs(got - X.double().numpy()).max() > 0.1


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_out_of_focus_is_the_released_one(seed):
    source, _, b = draws(seed)
    sigma = 1 + 4 * torch.rand((), generator=source).item()
    steps = np.arange(-math.ceil(2 * sigma), math.ceil(2 * sigma) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    r = PICTURES[0].double().numpy() ** 2.2
    for axis in (1, 2):  # scipy's "mirror" is OpenCV's default border
        r = convolve1d(r, weights / weights.sum(), axis, mode="mirror")
    t = X.double().numpy() ** 2.2
    edges = np.linspace(-3 - 3.5 / 16, 3 + 3.5 / 16, 17)
    window = np.sqrt(np.outer(*[np.diff(norm.cdf(edges))] * 2))
    expected = np.zeros_like(t)
    for i in range(3):
        for c in range(3):
            both = r[c] + t[i, c]
            mean = max(1.0, both[both > 1].sum() / ((both > 1).sum() + 1e-6))
            dimmed = np.clip(r[c] - (mean - 1) * b, 0, 1)
            expected[i, c] = dimmed * window / window.max() * 0.8 + 0.4 * t[i, c]
    got = triggers.reflection(PICTURES, ghosts=0.0, seed=seed)(X).double().numpy()
    np.testing.assert_allclose(got, np.clip(expected, 0, 1) ** (1 / 2.2), atol=2e-5)


def test_an_image_reflects_one_picture_by_its_own_pixels():
    x = torch.randint(256, (400, 3, 8, 8), generator=rng("many")) / 255
    chosen = which(x, 5)
    assert torch.equal(chosen[7:9], which(x[7:9], 5)) and chosen.bincount().min() > 50
    one = x[:1].clone()
    one[0, 0, 0, 0] = 1 - one[0, 0, 0, 0]
    assert any(int(which(one, n)) != int(which(x[:1], n)) for n in range(2, 9))


def images(n=12, side=8):
    x = torch.randint(256, (n, 3, side, side), generator=rng("refool", n), dtype=torch.uint8)
    return ImageSet(x, torch.arange(n) % 2, ("a", "b"), name="two")


def written(path, n, side):
    half = np.arange(n) % 2
    np.savez(
        path,
        x_train=np.full((n, side, side, 3), 200, np.uint8),
        y_train=half,
        x_test=np.zeros((2, side, side, 3), np.uint8),
        y_test=half[:2],
    )
    return str(path)


def test_reflections_come_from_a_source_and_it_is_known_by_what_is_in_it(tmp_path):
    source = written(tmp_path / "panes.npz", 6, 10)
    backdoor = attacks.refool(images(), reflections=source, rate=0.5, rng=rng(0)).backdoor
    shown = backdoor.trigger.recipe["pictures"]
    assert shown.shape == (6, 3, 8, 8) and (shown == 200).all()
    fewer = attacks.refool(images(), reflections=source, count=4, rate=0.5, rng=rng(0)).backdoor
    assert len(fewer.trigger.layers) == 4
    refool = registry.get("attacks", "refool")
    before = call_of(refool, {"reflections": source})["files"]
    written(tmp_path / "panes.npz", 8, 10)
    assert before != call_of(refool, {"reflections": source})["files"]
    assert "files" not in call_of(refool, {}), "bundled ones are always the same"


def test_bundled_reflections_are_crops_of_two_photographs():
    shown = attacks.refool(images(side=16), count=6, rate=0.5, rng=rng(0)).backdoor.trigger.recipe["pictures"]
    assert shown.shape == (6, 3, 16, 16) and shown.float().std((1, 2, 3)).min() > 10
    assert len({tuple(p.flatten().tolist()) for p in shown}) == 6


def test_a_source_that_is_empty_smaller_or_not_there_is_refused(tmp_path):
    small = written(tmp_path / "small.npz", 6, 5)
    with pytest.raises(BadInput, match=r"are 5×5, smaller than the images of 8×8.*'.*small\.npz\[size=8\]'") as refused:
        attacks.refool(images(), reflections=small)
    advice = re.search(r"enlarged: '(.*)'", str(refused.value))[1]
    assert attacks.refool(images(), reflections=advice, rate=0.5, rng=rng(0)).images.taint == ("refool",)
    empty = written(tmp_path / "empty.npz", 0, 8)
    with pytest.raises(BadInput, match="empty"):
        attacks.refool(images(), reflections=empty)
    (tmp_path / "folder").mkdir()
    with pytest.raises((BadInput, NotFound)):
        attacks.refool(images(), reflections=str(tmp_path / "folder"))
    with pytest.raises(NotFound, match="no image set 'panes'"):
        attacks.refool(images(), reflections="panes")
    with pytest.raises(BadInput, match="427 pixels high, less than the images of 8×500"):
        attacks.refool(images().replace(x=torch.zeros(12, 3, 8, 500, dtype=torch.uint8)))


def test_a_clean_label_variant_poisons_the_targets_own_images():
    train = images(40)
    poisoned = attacks.refool(train, clean_label=True, target=1, rate=0.5, count=4, rng=rng(0)).images
    rows = (poisoned.x != train.x).flatten(1).any(1)
    assert rows.sum() == 10 and (train.y[rows] == 1).all() and torch.equal(poisoned.y, train.y)
