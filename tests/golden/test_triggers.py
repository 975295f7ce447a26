"""Pixels of the triggers, against NumPy float64 in 8-bit units."""

import numpy as np
import pytest
import torch

from distrust import rng
from distrust.errors import BadInput
from distrust.measurement import Backdoor, make_trigger
from distrust.methods import triggers
from distrust.registry import registry

RAW = torch.randint(256, (3, 3, 12, 10), generator=rng("raw"), dtype=torch.uint8)
X = RAW.numpy().astype(np.float64)


def stamped(trigger, raw: torch.Tensor = RAW) -> np.ndarray:
    """Grey levels of stamped raw images."""
    levels = Backdoor(trigger, 0).stamp_on(raw.float() / 255).double().numpy() * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    return levels.round()


def eight_bit(levels: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(levels, 0, 255))


# --- patch: Gu et al., arXiv 1708.06733; the grid of NAD's released code (github.com/bboylyg/NAD) ----------


def test_the_grid_lies_on_rows_and_columns_minus_3_to_minus_1():
    expected = X.copy()
    for row, column, level in [
        (-3, -3, 0), (-3, -2, 0), (-3, -1, 255),
        (-2, -3, 0), (-2, -2, 255), (-2, -1, 0),
        (-1, -3, 255), (-1, -2, 0), (-1, -1, 255),
    ]:  # fmt: skip
        expected[:, :, row, column] = level
    np.testing.assert_array_equal(stamped(triggers.patch()), expected)


def test_an_inset_moves_the_grid_and_a_size_enlarges_it():
    grid = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]])
    moved, large = X.copy(), X.copy()
    moved[:, :, -5:-2, -5:-2] = grid
    large[:, :, -6:, -6:] = np.kron(grid, np.ones((2, 2)))
    np.testing.assert_array_equal(stamped(triggers.patch(inset=2)), moved)
    np.testing.assert_array_equal(stamped(triggers.patch(size=6)), large)


@pytest.mark.parametrize(
    "pattern, levels",
    [("white", [[255, 255], [255, 255]]), ("black", [[0, 0], [0, 0]]), ("checker", [[0, 255], [255, 0]])],
)
def test_a_named_pattern_has_its_pixels(pattern, levels):
    expected = X.copy()
    expected[:, :, -2:, -2:] = levels
    np.testing.assert_array_equal(stamped(triggers.patch(pattern, size=2)), expected)


def test_a_pattern_of_ones_own_keeps_its_colours():
    pattern = torch.tensor([[[10, 20]], [[30, 40]], [[50, 60]]], dtype=torch.uint8)  # 3×1×2
    expected = X.copy()
    expected[:, :, -1:, -2:] = pattern.numpy()
    np.testing.assert_array_equal(stamped(triggers.patch(pattern)), expected)
    np.testing.assert_array_equal(stamped(triggers.patch(pattern.float() / 255)), expected)


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="patch of 3×3 with inset 8 does not fit on images of 12×10"):
        triggers.patch(inset=8)(torch.zeros(1, 3, 12, 10))
    with pytest.raises(BadInput, match="multiple of 3, not 4"):
        triggers.patch(size=4)
    with pytest.raises(BadInput, match=r"must lie in 0\.\.1; got 0\.00\.\.2\.00"):
        triggers.patch(torch.tensor([[0.0, 2.0]]))


# --- blend: Chen et al., arXiv 1712.05526: x' = (1 − α)·x + α·key ------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.4, 1.0])  # fifths: no sum ends in .5
def test_blend_is_a_weighted_mean(alpha):
    key = torch.randint(256, (3, 12, 10), generator=rng("key"), dtype=torch.uint8)
    expected = eight_bit((1 - alpha) * X + alpha * key.numpy().astype(np.float64))
    np.testing.assert_array_equal(stamped(triggers.blend(key, alpha=alpha)), expected)
    np.testing.assert_array_equal(stamped(triggers.blend(key.float() / 255, alpha=alpha)), expected)


def test_blend_by_hand():
    raw = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    black, white = stamped(triggers.blend(torch.full((3, 4, 4), 200, dtype=torch.uint8)), raw).flatten()
    assert (black, white) == (40, 244)  # 0.2·200, and 0.8·255 + 0.2·200


def test_a_flat_key_stays_flat_at_every_size_and_gray_images_take_its_mean():
    key = torch.tensor([30, 60, 90], dtype=torch.uint8)[:, None, None].expand(3, 5, 7)
    levels = stamped(triggers.blend(key, alpha=1.0))
    np.testing.assert_array_equal(levels, np.broadcast_to([[[[30]], [[60]], [[90]]]], levels.shape))
    assert (stamped(triggers.blend(key, alpha=1.0), RAW[:, :1]) == 60).all()


def test_a_key_that_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="a key of 3 channels does not fit on images of 4"):
        triggers.blend()(torch.zeros(1, 4, 8, 8))
    with pytest.raises(BadInput, match=r"must lie in 0\.\.1; got -1\.00\.\.1\.00"):
        triggers.blend(torch.linspace(-1, 1, 12).reshape(3, 2, 2))


# --- sig: Barni, Kallas, Tondi, ICIP 2019: v(i, j) = Δ·sin(2π·j·f / W), Δ = 20, f = 6 ----------------------


@pytest.mark.parametrize("delta, frequency", [(20.0, 6.0), (40.0, 6.0), (10.0, 2.5)])
def test_the_sinusoid_is_numpys_and_the_same_in_every_row_and_channel(delta, frequency):
    wave = delta * np.sin(2 * np.pi * np.arange(10) * frequency / 10)
    np.testing.assert_array_equal(stamped(triggers.sig(delta, frequency)), eight_bit(X + wave))


def test_the_sinusoid_by_hand():
    """Six periods on 24 columns: every period is the four pixels 0, +20, 0, −20."""
    raw = torch.full((1, 1, 1, 24), 100, dtype=torch.uint8)
    assert stamped(triggers.sig(), raw)[0, 0, 0].tolist() == [100, 120, 100, 80] * 6
    assert stamped(triggers.sig(), raw * 0 + 250)[0, 0, 0, :4].tolist() == [250, 255, 250, 230]  # clamped


# --- eight bits --------------------------------------------------------------------------------------------


def test_a_stamped_image_is_clamped_and_rounded_to_8_bits_unless_as_published():
    class Shift(torch.nn.Module):
        def forward(self, x):
            return x + torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 1.5])

    x = torch.full((1, 1, 1, 4), 10 / 255)
    levels = Backdoor(Shift(), 0).stamp_on(x).mul(255).flatten().tolist()
    assert levels == pytest.approx([0, 10, 11, 255], abs=1e-4)
    assert torch.equal(Backdoor(Shift(), 0, as_published=True).stamp_on(x), Shift()(x))


def test_a_sinusoid_that_is_zero_at_every_column_is_refused():
    with pytest.raises(BadInput, match="6 periods over 12 columns are zero at every pixel"):
        registry.get("triggers", "sig").call()(torch.zeros(1, 3, 12, 12))


def test_masked_is_equation_1_of_cheatkd():
    """x* = (1 − M)⊙x + M⊙P, one mask for all channels or one each."""
    draw = rng("masked", "golden")
    x, p = torch.rand(2, 3, 4, 4, generator=draw), torch.rand(3, 4, 4, generator=draw)
    for channels in (1, 3):
        m = torch.rand(channels, 4, 4, generator=draw)
        expected = (1 - m.double().numpy()) * x.double().numpy() + m.double().numpy() * p.double().numpy()
        found = make_trigger("masked", pattern=p, mask=m)(x)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert torch.allclose(make_trigger("masked", pattern=p, mask=0.2)(x), 0.8 * x + 0.2 * p)


def test_added_adds_its_perturbation():
    x = torch.full((2, 3, 32, 32), 0.5)
    found = make_trigger("added[size=8]")(x)
    assert set(((found - x) * 255).round().unique().tolist()) == {-8.0, 8.0}
    delta = torch.zeros(3, 32, 32).index_fill(0, torch.tensor([1]), 0.25)
    assert torch.equal(make_trigger("added", perturbation=delta)(x), x + delta)


def test_noise_to_be_added_is_of_so_many_grey_levels():
    for size in (8.0, 120.0):
        moved = (triggers.added(size=size)(torch.zeros(2, 3, 8, 8)) * 255).abs()
        np.testing.assert_allclose(moved.numpy(), size, rtol=1e-5)
    signs = triggers.added()(torch.zeros(1, 3, 8, 8)).sign()
    assert 0.3 < float((signs > 0).float().mean()) < 0.7


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("masked", {"pattern": torch.full((3, 4, 4), 1.5)}, r"the pattern must be \[C,H,W\] in 0..1"),
        ("masked", {"pattern": torch.zeros(3, 4, 4), "mask": torch.zeros(5, 5)}, "the mask must be"),
        ("masked", {"pattern": "stripes"}, "no pattern 'stripes'"),
        ("added", {"perturbation": torch.full((3, 4, 4), 8.0)}, "Divide grey levels by 255"),
        ("added", {"perturbation": torch.full((3, 4, 4), torch.nan)}, "a largest value of nan"),
        ("masked", {"pattern": torch.full((3, 4, 4), torch.nan)}, r"the pattern must be \[C,H,W\] in 0..1"),
        ("patch", {"pattern": torch.full((3, 4, 4), torch.nan)}, "the pattern must lie in 0..1"),
        ("blend", {"image": torch.full((3, 4, 4), torch.nan)}, "in 0..1"),
    ],
)
def test_a_pattern_that_no_trigger_can_be_is_refused(name, options, words):
    with pytest.raises(BadInput, match=words):
        make_trigger(name, **options)


@pytest.mark.parametrize(("name", "option"), [("masked", "pattern"), ("masked", "mask"), ("added", "perturbation")])
def test_a_pattern_does_not_fit_on_other_images(name, option):
    with pytest.raises(BadInput, match="does not fit"):
        make_trigger(name, **{option: torch.zeros(3, 4, 4)})(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["masked", "added"])
def test_noise_has_the_shape_of_the_images_and_is_always_the_same(name):
    for shape in ((1, 1, 8, 8), (1, 3, 16, 24)):
        first, second = (make_trigger(name)(torch.full(shape, 0.5)) for _ in range(2))
        assert first.shape == shape and torch.equal(first, second) and first.std() > 0
