"""ImageSet, its splits and its augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from distrust.data import PLAIN, Augment, ImageSet, Late, as_8_bit, roles, split
from distrust.errors import BadInput
from distrust.seeds import rng


def make(n: int = 10, k: int = 3, **fields) -> ImageSet:
    """Random 2×6×5 images: height, width and channels all differ, so that a swap shows."""
    x = torch.randint(256, (n, 2, 6, 5), generator=rng("x", n), dtype=torch.uint8)
    return ImageSet(**{"x": x, "y": torch.arange(n) % k, "classes": tuple("abcdef"[:k]), **fields})


# --- ImageSet ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"x": torch.zeros(0, 2, 6, 5)}, "split is empty"),
        ({"x": torch.zeros(10, 6, 5)}, r"uint8 or float32 \[N,C,H,W\]; got torch.float32 \[10, 6, 5\]"),
        ({"x": torch.zeros(10, 2, 6, 5, dtype=torch.float64)}, "got torch.float64"),
        ({"y": torch.zeros(9, dtype=torch.int64)}, "10 images but 9 labels"),
        ({"y": torch.full((10,), 3)}, r"labels must be 0..2 for 3 classes; got 3..3"),
        ({"y": torch.full((10,), -1)}, r"got -1..-1"),
        ({"y": torch.zeros(10, 4)}, r"float32 \[N,3\]; got torch.float32 \[10, 4\]"),
        ({"y": torch.zeros(10)}, "got torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        make(**fields)


def test_rows_keep_their_labels_index_group_and_stamp():
    images = make(group=torch.arange(10) // 2, late=Late(torch.arange(10) < 5, nn.Identity()))
    part = images[images.y == 2]
    assert part.index.tolist() == [2, 5, 8] and part.group.tolist() == [1, 2, 4]
    assert part.late.rows.tolist() == [True, False, False]
    assert torch.equal(part.x, images.x[[2, 5, 8]])
    assert part[1:].index.tolist() == [5, 8], "the index still names the source's rows"
    assert part[torch.tensor([2, 0])].index.tolist() == [8, 2]
    assert repr(images.replace(taint=("blend",))) == "ImageSet(images: 10 images 2×6×5, 3 classes, tainted by blend)"


def test_soft_labels_travel_and_harden():
    soft = torch.eye(3)[torch.arange(10) % 3] * 0.8 + 0.1
    images = make(y=soft)
    assert images.hard.tolist() == [k % 3 for k in range(10)]
    assert torch.equal(images[3:5].y, soft[3:5])
    assert torch.equal(next(images.batches(4))[1], soft[:4])


def test_pixels_are_unit_range_and_leave_the_images_alone():
    images = make()
    before = images.x.clone()
    assert torch.equal(images.pixels(), images.x.float() / 255)
    assert torch.equal(images.x, before)
    synthetic = make(x=torch.randn(10, 2, 6, 5), off_range=True)
    assert torch.equal(synthetic.pixels(), synthetic.x), "a synthetic set may leave 0..1, if it says so"


def test_float_images_outside_the_unit_range_look_normalised():
    with pytest.raises(BadInput, match=r"must lie in \[0, 1\]; got \[-2.12, 2.64\]. They look normalised: put dt.Norm"):
        make(x=torch.linspace(-2.12, 2.64, 10 * 2 * 6 * 5).view(10, 2, 6, 5))


def test_as_8_bit_is_what_a_file_holds():
    x = torch.tensor([-0.5, 0.0, 0.1, 0.5019, 1.0, 1.7])
    expected = np.round(np.clip(x.numpy(), 0, 1) * 255) / 255
    np.testing.assert_allclose(as_8_bit(x).numpy(), expected, atol=1e-7)
    assert torch.equal(as_8_bit(as_8_bit(x)), as_8_bit(x))
    assert x[0] == -0.5, "the input is not changed"


# --- augmentation ------------------------------------------------------------------------------------------


def test_crop_is_a_shift_with_zeros_for_every_image_by_itself():
    x = make(40).x
    got = Augment(flip=False, crop=2)(x, rng("crop"))
    shifts = torch.randint(5, (2, 40), generator=rng("crop")).numpy()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    for row, (dy, dx) in enumerate(shifts.T):
        np.testing.assert_array_equal(got[row], padded[row, :, dy : dy + 6, dx : dx + 5])
    assert len({tuple(shift) for shift in shifts.T}) > 5


def test_flip_mirrors_about_half_of_the_images_and_only_left_to_right():
    x = make(200).x
    got = Augment(crop=0)(x, rng("flip"))
    same = (got == x).flatten(1).all(1)
    mirrored = (got == x.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 70 < int(mirrored.sum()) < 130


def test_cutout_zeroes_one_square_per_image_and_nothing_else():
    x = torch.full((300, 2, 9, 9), 7, dtype=torch.uint8)
    got = Augment(flip=False, crop=0, cutout=3)(x, rng("cutout"))
    holes = got == 0
    assert ((got == 7) | holes).all() and torch.equal(holes[:, 0], holes[:, 1]), "the same hole in every channel"
    rows, columns = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert torch.equal(holes[:, 0].flatten(1).sum(1), rows * columns), "a filled rectangle"
    assert int(rows.max()) == int(columns.max()) == 3 and int(rows.min()) == 2, "cut by the border at most"
    assert holes[:, 0].any(0).all(), "every place can be hit"


def test_plain_changes_nothing():
    x = make().x
    assert torch.equal(PLAIN(x, rng("plain")), x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmenting_keeps_dtype_input_and_stream(dtype):
    x = make().x.to(dtype)
    before = x.clone()
    everything = Augment(flip=True, crop=1, cutout=2)
    got = everything(x, rng("all"))
    assert got.dtype == dtype and got.shape == x.shape and torch.equal(x, before)
    assert torch.equal(got, everything(x, rng("all")))
    assert not torch.equal(got, everything(x, rng("other")))


# --- batches -----------------------------------------------------------------------------------------------


def test_batches_in_order_show_every_image():
    images = make()
    batches = list(images.batches(4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in batches]), images.pixels())
    assert torch.equal(torch.cat([y for _, y in batches]), images.y)


def test_shuffled_batches_show_every_image_once():
    images = make(12, y=torch.eye(12), classes=tuple("abcdefghijkl"))  # a label of its own for every image
    batches = list(images.batches(4, rng("order")))
    rows = torch.cat([y for _, y in batches]).argmax(1)
    assert sorted(rows.tolist()) == list(range(12)) and rows.tolist() != list(range(12))
    assert torch.equal(torch.cat([x for x, _ in batches]), images.pixels()[rows])


@pytest.mark.parametrize("n, size, sizes", [(10, 4, [4, 4]), (8, 4, [4, 4]), (3, 4, [3]), (4, 4, [4])])
def test_a_short_last_batch_is_dropped_if_there_is_a_full_one(n, size, sizes):
    assert [len(y) for _, y in make(n).batches(size, rng(0))] == sizes


class Paint(nn.Module):
    """Writes one value, off the 8-bit grid, into the top left pixel."""

    def forward(self, x):
        x = x.clone()
        x[:, :, 0, 0] = 0.5003
        return x


def test_a_late_trigger_is_stamped_after_augmentation_and_rounded_to_8_bits():
    late = torch.arange(12) % 3 == 0
    images = make(12, y=torch.eye(12), classes=tuple("abcdefghijkl"), late=Late(late, Paint()))
    before = images.x.clone()
    augment = Augment(flip=True, crop=2)
    stamped = list(images.batches(6, rng("late"), augment))
    clean = list(images.replace(late=None).batches(6, rng("late"), augment))
    for (x, y), (plain, same) in zip(stamped, clean, strict=True):
        assert torch.equal(y, same)
        hit = late[y.argmax(1)]
        assert torch.equal(x[~hit], plain[~hit])
        assert torch.equal(x[hit][:, :, 0, 0], torch.full((int(hit.sum()), 2), 128) / 255), "no crop moved it"
        assert torch.equal(x[hit][:, :, 1:], plain[hit][:, :, 1:])
    assert torch.equal(images.x, before)


# --- splits ------------------------------------------------------------------------------------------------

PROPERTY = settings(max_examples=40, deadline=None)


@st.composite
def grouped(draw):
    n = draw(st.integers(1, 60))
    group = draw(st.none() | st.lists(st.integers(0, 12), min_size=n, max_size=n).map(torch.tensor))
    return make(n, k=6, group=group)


@PROPERTY
@given(grouped(), st.lists(st.floats(0.05, 0.5), min_size=1, max_size=4), st.integers(0, 9))
def test_split_parts_are_disjoint_of_the_asked_size_and_respect_groups(images, weights, seed):
    shares = {f"part{i}": w / max(sum(weights), 1) for i, w in enumerate(weights)}
    try:
        parts = split(images, shares, rng(seed))
    except BadInput:
        assume(False)
    rows = torch.cat([part.index for part in parts.values()])
    assert len(rows.unique()) == len(rows)
    unit = 1 if images.group is None else int(images.group.bincount().max())
    for name, part in parts.items():
        assert abs(len(part) - shares[name] * len(images)) <= unit + 1e-6
        assert (part.index.diff() > 0).all(), "in source order"
        if images.group is not None:
            elsewhere = torch.ones(len(images), dtype=torch.bool)
            elsewhere[part.index] = False
            assert not torch.isin(part.group, images.group[elsewhere]).any()
    again = split(images, shares, rng(seed))
    assert all(torch.equal(parts[name].index, again[name].index) for name in shares)


@PROPERTY
@given(grouped(), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_roles_are_disjoint_and_leave_nothing_out(images, clean, validation):
    try:
        parts = roles(images, clean=clean, validation=validation)
    except BadInput:
        assume(False)
    assert sorted(torch.cat([part.index for part in parts]).tolist()) == list(range(len(images)))


def test_roles_are_the_same_for_everyone():
    images = make(100)
    assert torch.equal(roles(images).clean.index, roles(images).clean.index)
    assert not torch.equal(roles(images).clean.index, roles(images, rng=rng(1)).clean.index)
    assert [len(part) for part in roles(images)] == [90, 5, 5]


def test_fraction_takes_whole_groups_in_source_order():
    images = make(100, group=torch.arange(100) // 5)
    part = images.fraction(0.3, rng("part"))
    assert len(part) == 30 and (part.group.bincount(minlength=20) % 5 == 0).all()
    assert (part.index.diff() > 0).all()
    assert torch.equal(images.fraction(1.0, rng("all")).index, images.index)


@pytest.mark.parametrize(
    "shares, message",
    [
        ({"a": 0.0}, r"share a=0.0 is outside \(0, 1\]"),
        ({"a": 1.5}, "outside"),
        ({"a": 0.7, "b": 0.7}, "add up to more than 1"),
        ({"a": 0.01}, "holds no image"),
    ],
)
def test_impossible_shares_are_refused(shares, message):
    with pytest.raises(BadInput, match=message):
        split(make(), shares, rng(0))


def test_roles_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(BadInput, match="leave nothing to train on"):
        roles(make(), clean=0.5, validation=0.5)
