"""What was changed in a set is found by index, and a set comes back from its difference."""

import pytest
import torch
from tests.study_fixture import of_kind, plan

from distrust import rng
from distrust.data import ImageSet
from distrust.data.images import changed, rows_in
from distrust.errors import BadInput
from distrust.methods import attacks
from distrust.study import Stage
from distrust.study.codecs import SET, dump, undump


@pytest.fixture
def before():
    x = torch.full((6, 3, 16, 16), 51, dtype=torch.uint8)
    return ImageSet(x, torch.zeros(6, dtype=torch.int64), ("dark", "bright"), index=torch.tensor([3, 1, 4, 7, 5, 9]))


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
    clean = Stage("images", {}, {}, 0, (), False, "a" * 32, "images")
    poison = Stage("poison", {}, {"transfer": clean}, 0, ("earlier",), True, "b" * 32, "poison")
    record, files = dump(after, poison, {"transfer": tiny}.__getitem__)
    assert len(files[SET]) < 4 * 3 * 64 + 8 * 60 + 500, "only what changed is written"
    again = undump(record, poison, files.__getitem__, {"transfer": tiny}.__getitem__)[""]
    assert torch.equal(again.x, after.x) and torch.equal(again.y, after.y) and torch.equal(again.index, after.index)
    assert again.taint == ("earlier",)


@pytest.mark.parametrize("stamp", ["before", "after"])
def test_poisoned_training_images_come_back_with_their_labels_and_what_is_stamped_late(tiny, stamp):
    after, backdoor = attacks.badnets(tiny, trigger="patch:white:3", rate=0.5, stamp=stamp, rng=rng(0))
    clean = Stage("images", {}, {}, 0, (), False, "a" * 32, "images")
    poison = Stage("poison", {"method": "attacks/badnets"}, {"train": clean}, 0, after.taint, True, "b" * 32, "poison")
    record, files = dump((after, backdoor), poison, {"train": tiny}.__getitem__)
    again = undump(record, poison, files.__getitem__, {"train": tiny}.__getitem__)[""]
    assert torch.equal(again.x, after.x) and torch.equal(again.y, after.y) and again.taint == ("badnets",)
    assert (again.late is None) == (after.late is None) == (stamp == "before")
    shown, expected = (next(images.batches(80, rng(1)))[0] for images in (again, after))
    assert torch.equal(shown, expected)


def test_an_attack_on_training_images_that_trains_a_network_first_is_stored_and_a_cheap_one_is_not():
    trains = "clean_label[network=wrn10-1,network_epochs=1,steps=2]"
    assert [s.call["method"] for s in of_kind(plan(attack=["badnets", trains]), "poison")] == ["attacks/clean_label"]
    assert not list(of_kind(plan(attack="badnets"), "plant"))
