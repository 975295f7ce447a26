"""What a curator could see of poisoned images, on images whose numbers can be written down by hand."""

import pytest
import torch
from safetensors.torch import load
from torch import nn

from distrust import rng
from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.measurement import Backdoor, make_trigger
from distrust.measurement.curator import changed, rows_in, stealth
from distrust.study.sets import pack_change, unpack_change

PATCH = Backdoor(make_trigger("patch:white:2"), 1)


class Says(nn.Module):
    """A teacher that calls an image after its first pixel: 0 dark, 1 bright."""

    def forward(self, x):
        bright = x[:, :1, 0, 0]
        return torch.cat([0.5 - bright, bright - 0.5], 1)


@pytest.fixture
def before():
    x = torch.full((6, 3, 16, 16), 51, dtype=torch.uint8)
    return ImageSet(x, torch.zeros(6, dtype=torch.int64), ("dark", "bright"), index=torch.tensor([3, 1, 4, 7, 5, 9]))


def test_the_change_is_measured_beside_the_trigger(before):
    x = before.x.clone()
    x[2] += 10  # every pixel by ten grey levels, and the trigger on it
    x[2, :, -2:, -2:] = 255
    x[2, :, 0, 0] = 255  # and one pixel by 204, so that the teacher says bright
    x[4, :, 5, 5] += 20  # without the trigger: one pixel by 20
    found = stealth(Says(), before, before.replace(x=x), PATCH)
    assert (found.n, found.share, found.hits, found.agreement) == (2, 2 / 6, 0.5, 0.5)
    assert found.agreement_clean == 1
    assert found.linf == pytest.approx((204 + 20) / 2)
    first = (3 * ((16 * 16 - 4 - 1) * 10**2 + 204**2)) ** 0.5 / 255
    assert found.l2 == pytest.approx((first + (3 * 20**2) ** 0.5 / 255) / 2, rel=1e-5)
    assert 0 < found.ssim < 1


def test_nothing_changed_is_said_so(before):
    found = stealth(Says(), before, before, PATCH)
    assert (found.n, found.share, found.agreement_clean) == (0, 0, 1)
    assert found.hits is found.agreement is found.linf is found.l2 is found.ssim is None


def test_where_all_is_poisoned_no_clean_image_is_left_to_compare(before):
    found = stealth(Says(), before, before.replace(x=before.x + 1), PATCH)
    assert found.share == 1 and found.agreement_clean is None and found.agreement == 1


def test_the_similarity_of_a_uniform_shift_has_its_closed_form(before):
    """Wang et al., 2004, with a Gaussian window of 11 and σ 1.5; of a uniform shift it has a closed form."""
    found = stealth(Says(), before, before.replace(x=before.x + 51), PATCH)
    mean, other, c1 = 0.2, 0.4, 0.01**2
    assert found.ssim == pytest.approx((2 * mean * other + c1) / (mean**2 + other**2 + c1), rel=1e-4)


def test_images_are_found_by_their_index_in_any_order_and_more_than_once(before):
    some = before[torch.tensor([5, 0, 0, 3])]
    assert rows_in(before, some).tolist() == [5, 0, 0, 3]
    x = some.x.clone()
    x[1] += 1
    assert changed(before, some.replace(x=x)).tolist() == [False, True, False, False]
    with pytest.raises(BadInput, match="does not have"):
        rows_in(before[:3], before)


def test_a_set_comes_back_from_its_difference_bit_for_bit(tiny):
    x = tiny.x.clone()
    x[5:9] = 255 - x[5:9]
    after = tiny.replace(x=x)[torch.randperm(80, generator=rng(0))[:50].sort().values]
    data = pack_change(tiny, after)
    assert len(data) < 4 * 3 * 64 + 8 * 60 + 500, "only what changed is written"
    again = unpack_change(tiny, load(data), ("earlier",))
    assert torch.equal(again.x, after.x) and torch.equal(again.y, after.y) and torch.equal(again.index, after.index)
    assert again.taint == ("earlier",)
