"""CTRL's pattern, against SciPy's DCT and kornia's YUV. Li et al., ICCV 2023, arXiv 2210.07346."""

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_yuv
from scipy.fft import dctn

from distrust import rng
from distrust.errors import BadInput
from distrust.measurement import make_trigger
from distrust.methods import triggers


def added(trigger, height: int, width: int) -> np.ndarray:
    """What the trigger adds, before anything is clamped, in grey levels of Y, U and V: [3,H,W]."""
    x = torch.rand(2, 3, height, width, generator=rng("x"), dtype=torch.float64)
    first, second = rgb_to_yuv(trigger(x)) * 255 - rgb_to_yuv(x) * 255
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
    return first.numpy()


def test_u_and_v_get_the_magnitude_at_two_bands_in_every_window_and_y_gets_nothing():
    """The released code's setting: 100 at (15, 15) and (31, 31). kornia rounds its matrix to three digits."""
    expected = np.zeros((32, 32))
    expected[15, 15] = expected[31, 31] = 100
    y, u, v = added(make_trigger("frequency"), 64, 96)
    assert np.abs(y).max() < 1e-6
    for channel in (u, v):
        for top in (0, 32):
            for left in (0, 32, 64):
                found = dctn(channel[top : top + 32, left : left + 32], norm="ortho")
                np.testing.assert_allclose(found, expected, rtol=0, atol=0.15)


@pytest.mark.parametrize("bands", [[3, 7], [0], [2, 5, 6]])
def test_other_windows_and_bands(bands):
    expected = np.zeros((8, 8))
    expected[bands, bands] = 40
    _, u, v = added(triggers.frequency(magnitude=40.0, window=8, bands=bands), 8, 8)
    for channel in (u, v):
        np.testing.assert_allclose(dctn(channel, norm="ortho"), expected, rtol=0, atol=0.06)


def test_a_small_image_is_one_window_with_the_same_shares_of_the_highest_band_as_loud():
    _, small, _ = added(make_trigger("frequency"), 8, 16)
    expected = np.zeros((8, 16))
    expected[3, 7] = expected[7, 15] = 100 * np.sqrt(8 * 16) / 32  # 6.25 levels, whatever the window
    np.testing.assert_allclose(dctn(small, norm="ortho"), expected, rtol=0, atol=0.06)


def test_pixels_beyond_the_last_window_stay_and_gray_images_take_the_pattern_itself():
    x = torch.rand(1, 1, 40, 32, generator=rng("gray"), dtype=torch.float64)
    found = (make_trigger("frequency")(x) - x)[0, 0].numpy() * 255
    assert not found[32:].any()
    coefficients = dctn(found[:32], norm="ortho")
    assert coefficients[15, 15] == pytest.approx(100) and coefficients[31, 31] == pytest.approx(100)


def test_a_band_that_is_not_there_and_other_channels_are_refused():
    with pytest.raises(BadInput, match=r"a window of 16 pixels has the bands 0\.\.15; bands=\[15, 31\]"):
        make_trigger("frequency[window=16]")
    with pytest.raises(BadInput, match="these have 4 channels"):
        make_trigger("frequency")(torch.zeros(1, 4, 8, 8))
