"""What a curator could see of poisoned images, on images whose numbers can be written down by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distrust.data import ImageSet
from distrust.measurement import Backdoor, make_trigger
from distrust.methods.metrics import difference, sifting, stealth

PATCH = Backdoor(make_trigger("patch:white:2"), 1)


class Says(nn.Module):
    """A teacher that calls an image after its first pixel: 0 dark, 1 bright."""

    def forward(self, x):
        bright = x[:, :1, 0, 0]
        return torch.cat([0.5 - bright, bright - 0.5], 1)


def of(*products):
    """The fields without their prefix."""
    return SimpleNamespace(**{name.removeprefix("poison_"): value for name, value in stealth(*products).items()})


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
    found = of(Says(), before, before.replace(x=x), PATCH)
    assert (found.n, found.share, found.hits, found.agreement) == (2, 2 / 6, 0.5, 0.5)
    assert found.agreement_clean == 1
    assert found.linf == pytest.approx((204 + 20) / 2)
    first = (3 * ((16 * 16 - 4 - 1) * 10**2 + 204**2)) ** 0.5 / 255
    assert found.l2 == pytest.approx((first + (3 * 20**2) ** 0.5 / 255) / 2, rel=1e-5)
    assert 0 < found.ssim < 1


def test_nothing_changed_is_said_so(before):
    found = of(Says(), before, before, PATCH)
    assert (found.n, found.share, found.agreement_clean) == (0, 0, 1)
    assert found.hits is found.agreement is found.linf is found.l2 is found.ssim is None


def test_where_all_is_poisoned_no_clean_image_is_left_to_compare(before):
    found = of(Says(), before, before.replace(x=before.x + 1), PATCH)
    assert found.share == 1 and found.agreement_clean is None and found.agreement == 1


def test_the_similarity_of_a_uniform_shift_has_its_closed_form(before):
    """Wang et al., 2004, with a Gaussian window of 11 and σ 1.5; of a uniform shift it has a closed form."""
    found = of(Says(), before, before.replace(x=before.x + 51), PATCH)
    mean, other, c1 = 0.2, 0.4, 0.01**2
    assert found.ssim == pytest.approx((2 * mean * other + c1) / (mean**2 + other**2 + c1), rel=1e-4)


def test_a_synthetic_set_is_compared_by_its_first_images():
    x = torch.full((4, 3, 2, 2), 0.5)
    before = ImageSet(x, torch.arange(4) % 2, ("dark", "bright"))
    moved = torch.cat([x, x[:1]])
    moved[1, 0, 0, 0] = 1.0  # by 127.5 grey levels
    moved[2] = 0.7  # all twelve values by 0.2
    found = difference(before, before.replace(x=moved, y=torch.arange(5) % 2, index=None))
    assert found == pytest.approx(
        {
            "poison_added": 1, "poison_share": 0.5, "poison_linf": (127.5 + 51) / 2,
            "poison_l2": (0.5 + 0.2 * 12**0.5) / 2,
        },
        rel=1e-5,
    )  # fmt: skip
    same = difference(before, before)
    assert same == {"poison_added": 0, "poison_share": 0, "poison_linf": 0, "poison_l2": 0}


def test_sifting_counts_what_is_gone_among_poisoned_and_clean(before):
    x = before.x.clone()
    x[[0, 2, 5], :, 0, 0] = 0  # three of six are poisoned
    suspect = before.replace(x=x)
    kept = suspect[torch.tensor([1, 3, 5])]  # gone: 0 and 2, poisoned; 4, clean
    assert sifting(before, suspect, kept) == {"caught": 2 / 3, "lost": 1 / 3}
    assert sifting(before, before, before[1:]) == {"caught": None, "lost": 1 / 6}, "nothing was there to catch"
