"""Every trigger: images in, images out, and a file image can show the result."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distrust import rng
from distrust.measurement import Backdoor

from . import every, same_bits

sizes = st.integers(8, 40).filter(lambda n: n != 12)  # SIG refuses 12 columns: six periods are zero there
batches = st.builds(
    lambda n, c, h, w, seed: torch.rand(n, c, h, w, generator=rng("x", seed)),
    st.integers(1, 3), st.sampled_from([1, 3]), sizes, sizes, st.integers(0, 99),
)  # fmt: skip


@every("triggers")
@settings(max_examples=20, deadline=None)
@given(x=batches)
def test_a_stamped_image_is_an_image(method, x):
    trigger, before = method.call(), x.clone()
    stamped = trigger(x)
    assert isinstance(trigger, nn.Module)
    assert torch.equal(x, before), "the input was changed"
    assert stamped.shape == x.shape and stamped.dtype == x.dtype
    assert trigger(stamped).shape == x.shape


@every("triggers")
@settings(max_examples=20, deadline=None)
@given(x=batches)
def test_a_backdoor_stamps_what_a_file_can_hold(method, x):
    stamped = Backdoor(method.call(), 0).stamp_on(x)
    assert stamped.min() >= 0 and stamped.max() <= 1
    assert torch.equal(stamped, stamped.mul(255).round().div(255)), "off the 8-bit lattice"


@every("triggers")
def test_every_image_shows_the_trigger(method):
    x = torch.randint(256, (20, 3, 16, 16), generator=rng("x")) / 255
    assert (Backdoor(method.call(), 0).stamp_on(x) != x).flatten(1).any(1).all()


@every("triggers")
def test_an_image_is_stamped_alone_as_in_a_batch(method):
    trigger, x = method.call(), torch.rand(4, 3, 12, 10, generator=rng("x"))
    assert torch.equal(trigger(x)[2:3], trigger(x[2:3]))


@every("triggers")
def test_a_trigger_made_twice_or_read_back_gives_the_same_pixels(method, tmp_path):
    trigger, x = method.call(), torch.rand(2, 3, 16, 16, generator=rng("x"))
    read = Backdoor.load(Backdoor(trigger, 1).save(tmp_path / "backdoor")).trigger
    for other in (method.call(), method.call(**trigger.recipe), pickle.loads(pickle.dumps(trigger)), read):
        assert torch.equal(other(x), trigger(x))
        assert same_bits(other.recipe, trigger.recipe)


@every("triggers")
@pytest.mark.parametrize("training", [True, False])
def test_a_trigger_is_the_same_in_every_mode_and_trains_nothing(method, training):
    trigger, x = method.call(), torch.rand(2, 3, 16, 16, generator=rng("x"))
    assert torch.equal(trigger.train(training)(x), method.call()(x))
    assert not list(trigger.parameters())
