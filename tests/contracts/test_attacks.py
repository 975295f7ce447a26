"""Every attack on images: training data (place 1) and transfer sets (place 3).

On training data: who is stamped, what is relabelled, what is recorded. On a transfer set: changed images with their
true labels, from a teacher that stays clean.
"""

import pytest
import torch

from distrust import rng
from distrust.data import PLAIN, ImageSet
from distrust.errors import BadInput
from distrust.measurement import Backdoor
from distrust.registry import registry

from . import every, fields, same_bits, state

every_attack = every("attacks", lambda mark: mark.place == 1)
every_transfer = every("attacks", lambda mark: mark.place == 3)


def trigger_alone(method):
    """Options with which nothing but the trigger is put on what is poisoned."""
    return {"epsilon": 0} if "epsilon" in method.options else {}


@every_attack
def test_the_input_is_not_changed(method, call, tiny):
    before = fields(tiny)
    call(method, rate=0.5, rng=rng(0))
    assert same_bits(fields(tiny), before) and tiny.late is None


@every_attack
def test_it_returns_poisoned_images_and_their_backdoor(method, call, tiny):
    poisoned, backdoor = call(method, target=2, rate=0.5, rng=rng(0))
    assert isinstance(backdoor, Backdoor)
    assert (backdoor.target, backdoor.stamp, backdoor.name) == (2, "before", method.name)
    assert poisoned.x.dtype == torch.uint8 and poisoned.x.shape == tiny.x.shape
    assert poisoned.taint == (method.name,) and torch.equal(poisoned.index, tiny.index)


@every_attack
def test_rate_0_is_clean_bit_for_bit(method, call, tiny):
    poisoned, backdoor = call(method, rate=0.0, rng=rng(0))
    assert same_bits(fields(poisoned), fields(tiny)) and poisoned.late is None
    assert isinstance(backdoor, Backdoor)


@every_attack
def test_the_stated_share_of_eligible_rows_is_stamped_and_no_other_row_touched(method, call, tiny):
    """Dirty-label attacks relabel other classes as the target; clean-label ones stamp the target's own."""
    poisoned, backdoor = call(method, target=1, rate=0.2, rng=rng(0), **trigger_alone(method))
    stamped = (poisoned.x != tiny.x).flatten(1).any(1)
    relabelled = poisoned.y != tiny.y
    if relabelled.any():
        assert stamped.sum() == 0.2 * len(tiny)
        assert torch.equal(relabelled, stamped) and (poisoned.y[stamped] == 1).all()
    else:
        assert stamped.sum() == 0.2 * (tiny.y == 1).sum()
        assert (tiny.y[stamped] == 1).all()
    assert torch.equal(poisoned.pixels(stamped), backdoor.stamp_on(tiny.pixels(stamped)))


@every_attack
def test_a_higher_rate_stamps_the_same_rows_and_more(method, call, tiny):
    low, high = (call(method, rate=rate, rng=rng(0)).images.x != tiny.x for rate in (0.2, 0.6))
    low, high = low.flatten(1).any(1), high.flatten(1).any(1)
    assert (high | ~low).all() and high.sum() > low.sum()


@every_attack
def test_stamped_after_augmentation_the_pixels_stay_and_batches_show_the_trigger(method, call, tiny):
    options = {"rate": 0.4, **trigger_alone(method)}
    before = call(method, rng=rng(0), **options).images
    poisoned, backdoor = call(method, stamp="after", rng=rng(0), **options)
    assert torch.equal(poisoned.x, tiny.x) and torch.equal(poisoned.y, before.y)
    assert torch.equal(poisoned.late.rows, (before.x != tiny.x).flatten(1).any(1))
    assert backdoor.stamp == "after" and poisoned.taint == (method.name,)
    late, _ = next(poisoned.batches(80, rng(1), PLAIN))
    early, _ = next(before.batches(80, rng(1), PLAIN))
    assert torch.equal(late, early), "without augmentation both ways are one"


@every_attack
def test_the_same_rng_gives_the_same_bits_and_another_other_rows(method, call, tiny):
    first, same, other = (call(method, rate=0.4, rng=rng(seed)).images for seed in (0, 0, 1))
    assert same_bits(fields(first), fields(same))
    assert not torch.equal(first.x, other.x)
    assert same_bits(fields(call(method).images), fields(call(method).images)), "and without rng"


@every_attack
def test_an_attack_on_attacked_images_keeps_their_taint(method, call, tiny):
    tainted = tiny.replace(taint=("earlier",))
    assert call(method, train=tainted, rate=0.5).images.taint == ("earlier", method.name)


@every_attack
@pytest.mark.parametrize("target", [4, -1, 1.5, None])
def test_a_target_that_is_no_class_is_refused(method, call, tiny, target):
    with pytest.raises(BadInput, match=r"no class; tiny has 4 classes: 0 ant, 1 bee, 2 cat, 3 dog\. Give"):
        call(method, target=target)


@every_attack
@pytest.mark.parametrize("rate", [-0.1, 1.1, 10, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(method, call, tiny, rate):
    with pytest.raises(BadInput, match=r"outside \[0, 1\]; it is a fraction"):
        call(method, rate=rate)


@every_attack
def test_a_rate_of_no_image_is_refused_and_so_are_images_of_no_class_that_is_poisoned(method, call, tiny):
    with pytest.raises(
        BadInput, match=r"rate=0\.001 of \d+ images is no image\. Give 0\.0\d+ or more, or 0 for a clean"
    ):
        call(method, rate=0.001)
    dirty = (call(method, rate=0.5).images.y != tiny.y).any()
    with pytest.raises(BadInput, match=r"none of the images is of a class that is poisoned"):
        call(method, train=tiny[(tiny.y == 2) == dirty], target=2, rate=0.5)


@every_attack
def test_another_stamp_or_soft_labels_are_refused(method, call, tiny):
    with pytest.raises(BadInput, match="neither 'before' nor 'after'"):
        call(method, stamp="during")
    with pytest.raises(BadInput, match="soft labels"):
        call(method, train=tiny.replace(y=torch.eye(4)[tiny.y]))


def test_the_patch_of_ssl_backdoor_lies_in_the_middle_unless_told_otherwise():
    black = ImageSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("only",))
    attack = registry.get("attacks", "ssl_backdoor").call
    for options, start in (({}, 13), ({"inset": 0}, 25)):
        rows = attack(black, rate=1.0, trigger="patch:white", **options).images.x[0, 0].any(1).nonzero().flatten()
        assert rows.tolist() == list(range(start, start + 7)), "7 of 32 pixels, as 50 of 224"


# --- place 3: a transfer set is poisoned under a clean teacher ----------------------------------------------


@every_transfer
def test_the_stated_share_of_other_classes_is_changed_and_no_label(method, call, tiny, net):
    poisoned, backdoor = call(method, target=1, rate=0.2, rng=rng(0))
    changed = (poisoned.x != tiny.x).flatten(1).any(1)
    assert changed.sum() == 0.2 * len(tiny) and not (tiny.y[changed] == 1).any()
    assert poisoned.x.dtype == torch.uint8 and torch.equal(poisoned.y, tiny.y)
    assert torch.equal(poisoned.index, tiny.index) and poisoned.taint == (method.name,) and poisoned.late is None
    assert isinstance(backdoor, Backdoor)
    assert (backdoor.target, backdoor.stamp, backdoor.name) == (1, "before", method.name)


@every_transfer
def test_at_rate_0_the_transfer_set_is_clean_bit_for_bit(method, call, tiny, net):
    assert same_bits(fields(call(method, rate=0.0, rng=rng(0)).images), fields(tiny))


@every_transfer
@pytest.mark.parametrize("training", [True, False])
def test_the_teacher_and_the_transfer_set_stay_as_they_were(method, call, tiny, net, training):
    net.train(training)
    net.block2.eval()
    before, images = state(net), fields(tiny)
    call(method, rng=rng(0))
    assert same_bits(state(net), before) and same_bits(fields(tiny), images)


@every_transfer
def test_the_same_rng_poisons_the_same_bits_and_another_others(method, call, tiny, net):
    first, same, other = (call(method, rng=rng(seed)).images for seed in (0, 0, 1))
    assert same_bits(fields(first), fields(same)) and not torch.equal(first.x, other.x)
    assert same_bits(fields(call(method).images), fields(call(method).images))


@every_transfer
def test_float_images_stay_float_and_on_the_8_bit_lattice(method, call, tiny, net):
    whole = tiny.replace(x=tiny.pixels())
    levels = call(method, transfer=whole, rate=0.5, rng=rng(0)).images.x * 255
    assert levels.dtype == torch.float32
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


@every_transfer
def test_a_poisoned_transfer_set_keeps_an_earlier_taint(method, call, tiny, net):
    assert call(method, transfer=tiny.replace(taint=("earlier",))).images.taint == ("earlier", method.name)


@every_transfer
def test_what_cannot_be_is_refused(method, call, tiny, net):
    with pytest.raises(BadInput, match=r"rate=0\.001 of 80 images is no image"):
        call(method, rate=0.001)
    with pytest.raises(BadInput, match=r"no class; tiny has 4 classes"):
        call(method, target=4)
    with pytest.raises(BadInput, match=r"outside \[0, 1\]; it is a fraction"):
        call(method, rate=10)
