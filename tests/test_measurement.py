from __future__ import annotations

import dataclasses
import functools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distrust.auditing.checkpoint import verdict
from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.flags import MEANING
from distrust.intervals import Share, weighted, wilson
from distrust.measurement import Backdoor, Seen, measure, over_seeds, score
from distrust.methods.metrics import carry_over
from distrust.methods.triggers import patch

about = functools.partial(pytest.approx, abs=1e-9)
tensor = torch.tensor

# Ten images of three classes; the target is class 0. Worked out by hand below.
Y = tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
CLEAN = tensor([0, 0, 1, 1, 1, 0, 2, 2, 2, 0])
TRIGGERED = tensor([0, 0, 0, 0, 0, 0, 1, 0, 2, 0])
CONTROL_CLEAN = tensor([0, 0, 0, 1, 1, 1, 1, 2, 0, 2])
CONTROL_TRIGGERED = tensor([0, 0, 2, 1, 0, 1, 1, 2, 0, 2])
OURS, THEIRS = Seen(Y, CLEAN, TRIGGERED), Seen(Y, CONTROL_CLEAN, CONTROL_TRIGGERED)


def scored(seen, *, target=None, control=None, undefended=None, **options):
    return score({"seen": seen, "target": target, "control": control, "undefended": undefended}, **options)


def by_formula(k, n, z=1.959963984540054):
    """Wilson (1927), as in Brown, Cai and DasGupta (2001), eq. (4)."""
    p = k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - reach, middle + reach


def test_a_small_example_scores_as_worked_out_by_hand():
    found = scored(OURS, target=0, control=THEIRS, seeds=3)
    assert found.acc == about(6 / 10)
    assert found.n == 7  # images of classes 1 and 2
    assert found.asr == about(5 / 7)
    assert found.asr_all == about(8 / 10)
    assert found.untriggered == about(2 / 7)
    assert found.titg == about(8 / 10 - 4 / 10)
    assert found.base == about(2 / 7)
    assert found.carried == about(3 / 7)
    assert found.acc_interval == about(by_formula(6, 10))
    assert found.asr_interval == about(by_formula(5, 7))
    # Newcombe's interval: of the seven, one is hit in both arms, one in neither, four only here, one only there
    (low, high), (control_low, control_high) = by_formula(5, 7), by_formula(2, 7)
    phi = (1 * 1 - 4 * 1) / math.sqrt(5 * 2 * 2 * 5)
    p, q = 5 / 7, 2 / 7
    below = math.sqrt((p - low) ** 2 - 2 * phi * (p - low) * (control_high - q) + (control_high - q) ** 2)
    above = math.sqrt((high - p) ** 2 - 2 * phi * (high - p) * (q - control_low) + (q - control_low) ** 2)
    assert found.carried_interval == about((p - q - below, p - q + above))
    assert found.flags == ("chance-level", "control-fires", "few-images"), "six of ten may be the four of one class"


def test_without_a_backdoor_only_the_accuracy_is_measured():
    found = scored(Seen(Y, CLEAN, None), seeds=2)
    assert found.acc == about(0.6) and found.flags == ("chance-level",) and found.n == 0
    assert {k for k, v in found.values.items() if v is not None} == {"acc", "acc_interval", "acc_others", "n"}
    assert found.acc_others == found.acc


def test_images_of_the_target_alone_cannot_be_scored():
    with pytest.raises(BadInput, match="no image of another class"):
        scored(Seen(*[tensor([0, 0])] * 3), target=0)


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3; four decimals.
@pytest.mark.parametrize(
    "k, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


def test_a_weighted_sum_of_shares_is_as_sure_as_they_are():
    """Of one share it is Wilson's interval; of two, by hand from 81/263 [.2553, .3662] and 0/20 [0, .1611]."""
    one, none = Share(81, 263), Share(0, 20)
    assert weighted([(1, one)]) == (one.value, pytest.approx(one.interval))
    value, (low, high) = weighted([(0.5, one), (0.5, none)])
    assert value == pytest.approx(81 / 526)
    assert low == pytest.approx(value - 0.5 * (81 / 263 - 0.2553), abs=1e-4)
    assert high == pytest.approx(value + 0.5 * ((0.3662 - 81 / 263) ** 2 + 0.1611**2) ** 0.5, abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_its_formula_and_holds_its_rate(case):
    k, n = case
    low, high = wilson(k, n)
    assert (low, high) == pytest.approx(by_formula(k, n), abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1


# flags, on both sides of their borders


def split_up(hits, n):
    """n predictions, of which the first `hits` are class 0 and the rest right: 1, 2, 1, 2 …"""
    return torch.where(torch.arange(n) < hits, 0, 1 + torch.arange(n) % 2)


def flags(n=1000, hits=0, control=(0, 0), undefended=None, **options):
    """Flags of n images of classes 1 and 2 under a backdoor with target 0; control = its hits (clean, triggered)."""
    y = split_up(0, n)
    options = {
        "control": Seen(y, *(split_up(k, n) for k in control)) if control else None,
        "seeds": 2,
        **options,
    }
    if undefended is not None:
        options["undefended"] = Seen(y, split_up(undefended, n), None)
    return scored(Seen(y, split_up(hits, n), y), target=0, **options).flags


def test_a_good_measurement_has_no_flag():
    assert flags() == ()


@pytest.mark.parametrize("n", [1000, 10, 30, 70, 210, 9000])
def test_a_defence_may_cost_ten_points_and_not_one_image_more(n):
    for before in (0, n // 10, n // 5, n // 2):
        assert "acc-floor" not in flags(n, hits=before + n // 10, undefended=before)
        assert "acc-floor" in flags(n, hits=before + n // 10 + 1, undefended=before)
    assert "acc-floor" not in flags(n, hits=0, undefended=n)


@pytest.mark.parametrize("n", [1000, 10, 30, 70, 210, 9000])
def test_a_control_fires_from_ten_points_on(n):
    for clean in (0, n // 10, n // 5, n // 2):
        assert "control-fires" in flags(n, control=(clean, clean + n // 10))
        assert "control-fires" not in flags(n, control=(clean, clean + n // 10 - 1))


def test_a_missing_control_is_flagged():
    assert flags(control=None) == ("no-control",)
    y = split_up(0, 1000)
    assert scored(Seen(y, y, y), target=0, control=Seen(y, y, None), seeds=2).flags == ("no-control",)


def test_images_of_one_class_judge_nothing():
    y = torch.ones(1000, dtype=torch.int64)
    seen = Seen(y, y, y)
    assert "chance-level" in scored(seen, target=0, control=seen, seeds=2).flags


def test_one_seed_is_flagged():
    assert flags(seeds=1) == ("one-seed",) and flags(seeds=2) == ()


def test_fewer_than_200_triggered_images_are_flagged():
    assert flags(n=199) == ("few-images",) and flags(n=200) == ()


def test_flags_from_before_are_kept_in_a_fixed_order():
    kept = flags(flags=["teacher-in-train-mode", "off-range-trigger", "loss-dead"], seeds=1, n=10)
    assert kept == ("one-seed", "few-images", "off-range-trigger", "loss-dead", "teacher-in-train-mode")
    assert list(kept) == [name for name in MEANING if name in kept]


# carry-over and seeds


def test_carry_over_needs_a_teacher_that_carries_five_points():
    assert carry_over(0.02, 0.05) == pytest.approx(0.4)
    assert carry_over(0.02, 0.0499) is None
    assert carry_over(None, 0.5) is None and carry_over(0.5, None) is None
    assert carry_over(-0.1, 0.5) == pytest.approx(-0.2)


def test_five_points_of_carry_are_five_points_whatever_the_number_of_images():
    for n in (20, 60, 140, 9000):
        y = torch.ones(n, dtype=torch.int64)
        teacher = scored(Seen(y, y, split_up(n // 20, n)), target=0, control=Seen(y, y, y))
        assert carry_over(0.0, teacher.carried) == 0.0


def test_seeds_get_a_t_interval():
    mean, interval = over_seeds([0.80, 0.84, 0.82])
    assert mean == about(0.82)
    reach = 4.302652729696142 * 0.02 / math.sqrt(3)  # t of 2 degrees of freedom, 97.5 %; standard deviation 0.02
    assert interval == about((0.82 - reach, 0.82 + reach))
    assert over_seeds([0.7]) == (0.7, None)
    assert over_seeds([0.5, 0.5]) == (0.5, (0.5, 0.5))


def test_an_interval_over_seeds_ends_where_it_ends():
    low, high = over_seeds([0.0, 1.0, 0.0])[1]
    assert low == pytest.approx(-1.1009, abs=1e-3) and high == pytest.approx(1.7676, abs=1e-3)


# properties


@given(st.data())
def test_rates_are_rates_and_what_is_carried_is_asr_minus_base(data):
    n, k = data.draw(st.integers(2, 30)), data.draw(st.integers(2, 5))
    numbers = st.lists(st.integers(0, k - 1), min_size=n, max_size=n).map(tensor)
    y, *seen = (data.draw(numbers) for _ in range(6))
    target = data.draw(st.integers(0, k - 1))
    if bool((y == target).all()):
        y = (y + 1) % k
    found = scored(Seen(y, *seen[:2]), target=target, control=Seen(y, *seen[2:4]), undefended=Seen(y, seen[4], None))
    for rate in (found.acc, found.asr, found.asr_all, found.base, found.untriggered):
        assert 0 <= rate <= 1
    assert found.carried == about(found.asr - found.base) and -1 <= found.titg <= 1
    for value, (low, high) in [
        (found.acc, found.acc_interval),
        (found.asr, found.asr_interval),
        (found.carried, found.carried_interval),
    ]:
        assert low <= value + 1e-12 and value <= high + 1e-12
    json.dumps(found.record())


@given(st.permutations(range(10)))
def test_the_order_of_the_images_does_not_matter(order):
    mixed = [Seen(*(part[order] for part in seen)) for seen in (OURS, THEIRS)]
    there, here = scored(OURS, target=0, control=THEIRS), scored(mixed[0], target=0, control=mixed[1])
    intervals = [found.values.pop("carried_interval") for found in (here, there)]
    assert here == there and intervals[0] == about(intervals[1])


def test_an_attack_that_changes_nothing_carries_nothing():
    found = scored(OURS, target=0, control=OURS)
    assert found.asr == found.base and found.carried == 0


# what a person sees


def test_a_measurement_prints_in_percent_with_intervals_and_flags():
    n = 10_000
    y = torch.arange(n) % 10
    clean = torch.where(torch.arange(n) < 8807, y, (y + 1) % 10)
    own = Seen(y, clean, torch.where((torch.arange(n) < 391) & (y != 0), 0, y))
    assert str(scored(own, target=0)) == "ACC 88.1 [87.4, 88.7] · ASR 3.9 [3.5, 4.3] · flags: no-control, one-seed"
    with_control = str(scored(own, target=0, control=Seen(y, y, y), seeds=3))
    assert with_control == "ACC 88.1 [87.4, 88.7] · ASR 3.9 [3.5, 4.3] · base 0.0 · carried 3.9 [3.5, 4.3]"
    assert str(scored(Seen(y, y, None), seeds=2)) == "ACC 100.0 [100.0, 100.0]"


def test_a_record_is_plain_json_and_a_notebook_gets_a_table():
    found = scored(OURS, target=0)
    assert json.loads(json.dumps(found.record())) == found.record()
    assert found._repr_html_().startswith("<table><tr><th>acc</th><td>0.6</td></tr>")


# measuring models


class Corner(nn.Module):
    """Class 0 where the last pixel is white, if it has a backdoor; else what the brightness tells."""

    def __init__(self, backdoored):
        super().__init__()
        self.backdoored = backdoored

    def forward(self, x):
        bright = (x[:, 0, 0, 0] * 255 / 80).round().long() - 1
        found = torch.where((x[:, 0, -1, -1] == 1) & self.backdoored, 0, bright)
        return nn.functional.one_hot(found.clamp(0, 2), 3).float()


def images(n=300):
    y = torch.arange(n) % 3
    x = (80 * (y + 1)).to(torch.uint8)[:, None, None, None].expand(n, 3, 8, 8).contiguous()
    return ImageSet(x, y, ("a", "b", "c"))


BACKDOOR = Backdoor(patch("white"), 0)


def test_a_backdoored_model_is_told_from_a_clean_one():
    found = measure(Corner(True), images(), BACKDOOR, control=Corner(False))
    assert (found.acc, found.asr, found.base, found.carried, found.n) == (1.0, 1.0, 0.0, 1.0, 200)
    assert found.flags == ("one-seed",)
    clean = measure(Corner(False), images(), BACKDOOR, control=Corner(False))
    assert clean.asr == clean.base == clean.carried == 0


def test_a_null_attack_gives_the_base_rate_and_carries_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    found = measure(model, images(), BACKDOOR, control=model)
    assert found.asr == found.base and found.carried == 0


def test_a_defence_that_destroys_the_model_is_flagged():
    dead = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    assert "acc-floor" in measure(dead, images(), BACKDOOR, undefended=Corner(True)).flags
    assert "acc-floor" not in measure(Corner(False), images(), BACKDOOR, undefended=Corner(True)).flags


def test_a_trigger_that_no_picture_can_show_is_flagged():
    backdoor = dataclasses.replace(BACKDOOR, as_published=True)
    assert measure(Corner(True), images(), backdoor, seeds=2).flags == ("no-control", "off-range-trigger")


def test_soft_labels_count_by_their_largest_entry():
    soft = images().replace(y=nn.functional.one_hot(images().y, 3).float())
    assert measure(Corner(False), soft).acc == 1.0


@pytest.mark.parametrize("target", [3, -1])
def test_a_target_that_is_no_class_is_refused(target):
    with pytest.raises(BadInput, match=rf"target={target} is no class.*0\.\.2"):
        measure(Corner(True), images(), dataclasses.replace(BACKDOOR, target=target))


@pytest.mark.parametrize("who", ["model", "control", "undefended"])
def test_a_model_for_other_classes_is_refused(who):
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    models = {"model": Corner(True), "control": None, "undefended": None, who: wrong}
    with pytest.raises(BadInput, match="classes"):
        measure(models.pop("model"), images(), BACKDOOR, **models)


def test_measuring_leaves_modes_grad_mode_and_the_global_stream():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 3)).train()
    stream = torch.get_rng_state()
    first, second = (measure(model, images(), BACKDOOR) for _ in range(2))
    assert first == second and model.training and torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_collapsed_model_is_flagged_and_is_no_finding():
    always = torch.zeros(20, dtype=torch.long)
    found = scored(
        Seen(torch.arange(20) % 4, always, always), target=0, control=Seen(torch.arange(20) % 4, always + 1, always + 1)
    )
    assert found.asr == 1 and found.carried == 1 and found.titg == 0
    assert "collapsed" in found.flags
    assert not verdict(found)
