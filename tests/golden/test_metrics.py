"""Metrics, counted by hand: ten images of three classes, the target is class 0.

Of the seven others the model calls five the target under the trigger, and two without; its control two and one.
"""

import inspect

import pytest
import torch
from torch import nn

from distrust import metrics, rng
from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.flags import Flag, heard
from distrust.measurement import Backdoor, Finding, Seen, make_trigger
from distrust.registry import registry

Y = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
OURS = Seen(Y, torch.tensor([0, 0, 1, 1, 1, 0, 2, 2, 2, 0]), torch.tensor([0, 0, 0, 0, 0, 0, 1, 0, 2, 0]))
THEIRS = Seen(Y, torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 0, 2]), torch.tensor([0, 0, 2, 1, 0, 1, 1, 2, 0, 2]))
BARE = OURS._replace(triggered=None)
Z = 1.959963984540054


def about(value):
    return pytest.approx(value, abs=1e-12)


def wilson(k, n):
    """Brown, Cai and DasGupta (2001), eq. (4)."""
    p = k / n
    middle, reach = p + Z * Z / (2 * n), Z * (p * (1 - p) / n + Z * Z / (4 * n * n)) ** 0.5
    return pytest.approx(((middle - reach) / (1 + Z * Z / n), (middle + reach) / (1 + Z * Z / n)), abs=1e-9)


def test_accuracy_of_the_model_and_of_what_stands_beside_it():
    with pytest.warns(Flag, match="chance-level"):  # 31 to 83 %, and four of ten are of one class
        assert metrics.acc(OURS) == (about(6 / 10), wilson(6, 10))
    assert metrics.acc_others(OURS, 0) == about(4 / 7), "the target's own three images left out"
    assert metrics.acc_others(OURS) == about(6 / 10)
    assert metrics.acc_control(THEIRS) == metrics.teacher_acc(THEIRS) == metrics.undefended_acc(THEIRS) == about(9 / 10)
    assert metrics.undefended_acc(BARE) is None


def test_chance_is_the_share_of_the_most_frequent_class():
    """78 of 100 right are no more than the 75 of one class, though far above one half; 90 are."""
    y = (torch.arange(100) >= 75).long()
    with pytest.warns(Flag, match="chance-level"):
        metrics.acc(Seen(y, torch.where(torch.arange(100) < 78, y, 1 - y), None))
    assert metrics.acc(Seen(y, torch.where(torch.arange(100) < 90, y, 1 - y), None)).value == about(0.9)


def test_success_of_the_trigger_and_what_stands_beside_it():
    assert metrics.asr(OURS, 0) == (about(5 / 7), wilson(5, 7))
    assert metrics.asr_all(OURS, 0) == about(8 / 10)
    assert metrics.untriggered(OURS, 0) == about(2 / 7)
    assert metrics.titg(OURS, 0) == about(8 / 10 - 4 / 10)
    assert metrics.teacher_asr(OURS, 0) == metrics.undefended_asr(OURS, 0) == about(5 / 7)
    assert metrics.carried(OURS, THEIRS, 0).value == metrics.teacher_carried(OURS, THEIRS, 0) == about(3 / 7)


@pytest.mark.parametrize(
    "facts, weak",
    [
        ({"attack": "badnets[rate=0.1]"}, True),  # 71 %, of which 80 are asked
        ({"attack": "sig"}, False),  # and 50 with clean labels
        ({"attack": "clean_label[rate=1]"}, False),
        ({"attack": "hidden_trigger"}, False),
        ({"attack": "refool"}, True),
        ({"attack": "refool[clean_label=true]"}, False),
        ({"attack": "none"}, False),
        ({"attack": "a_plug_in"}, True),
        ({"attack": "badnets", "distiller": "kd"}, False),  # what a student inherits is the question there
        ({"attack": "badnets", "condenser": "dm"}, False),
        ({"attack": "badnets", "encoder": "simclr"}, False),
        ({"attack": "badnets", "images": "mnist>gtsrb"}, False),
        ({}, False),
    ],
)
def test_a_defence_of_what_was_hardly_backdoored_is_flagged(facts, weak):
    with heard() as flags:
        metrics.undefended_asr(OURS, 0, **facts)
    assert ("attack-weak" in flags) == weak
    all_of_them = OURS._replace(triggered=torch.zeros(10, dtype=torch.int64))
    with heard() as flags:
        assert metrics.undefended_asr(all_of_them, 0, **facts) == 1 and metrics.undefended_asr(BARE, 0, **facts) is None
    assert not flags


@pytest.mark.filterwarnings("ignore::distrust.flags.Flag")
def test_the_base_rate_is_the_controls():
    assert metrics.base(OURS, 0, THEIRS) == about(2 / 7)
    assert metrics.base(OURS, 0) is None


def test_without_a_trigger_there_is_no_rate():
    for rate in (metrics.asr, metrics.asr_all, metrics.base, metrics.untriggered, metrics.titg, metrics.teacher_asr):
        assert rate(BARE, 0) is None
    assert metrics.carried(OURS, THEIRS._replace(triggered=None), 0) is None
    with pytest.raises(BadInput, match="no image of another class"):
        metrics.asr(Seen(*[torch.zeros(2, dtype=torch.int64)] * 3), 0)


def test_newcombes_interval_of_a_published_example():
    """Newcombe (1998), table II, hybrid score: of 50 pairs 36 agree, 12 and 2 do not; 0.0569 to 0.3404."""
    right = torch.ones(50, dtype=torch.int64)  # the target is class 0
    ours, theirs = right.clone(), right.clone()
    ours[:12], theirs[12:14] = 0, 0
    value, (low, high) = metrics.carried(Seen(right, right, ours), Seen(right, right, theirs), 0)
    assert (value, low, high) == (about(0.2), pytest.approx(0.0569, abs=6e-5), pytest.approx(0.3404, abs=6e-5))


def test_carry_over_is_a_ratio():
    assert metrics.carry_over(0.3, 0.6) == about(0.5) and metrics.carry_over(0.3, 0.0499) is None


def test_images_and_seconds_are_counted():
    with pytest.warns(Flag, match="few-images"):
        assert metrics.n(OURS, 0) == 7
    assert metrics.n(OURS) == metrics.n(BARE, 0) == 0
    assert metrics.seconds([{"seconds": 1.26, "kind": "teacher"}, {"seconds": 0.1}]) == 1.4


def test_a_finding_is_told_with_its_class_where_there_are_classes():
    finding = Finding("patch_probe", 2.5, (0.1, 2.5), 1, p=0.2)
    assert metrics.score(finding) == {"score": 2.5, "suspect": 1, "score_p": 0.2}
    encoder = Finding("decree", 0.3, (0.3,), 0)
    assert metrics.score(encoder) == {"score": 0.3, "suspect": None, "score_p": None}
    assert metrics.score_control(encoder) == 0.3


class Bright(nn.Module):
    """Class 1 where the last pixel is white, class 0 elsewhere."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * nn.functional.one_hot((x[:, 0, -1, -1] == 1).long(), 2).float()


def test_asr_on_archetypes_counts_the_targets_own(tiny):
    images = ImageSet(torch.full((4, 3, 4, 4), 0.5), torch.tensor([0, 0, 1, 1]), ("a", "b"))
    images.x[0] = 1.0  # by itself of class 1
    white, nothing = make_trigger("patch:white:1"), nn.Identity()
    for share in (metrics.asr_archetypes, metrics.base_archetypes):
        assert share(Bright(), images, Backdoor(white, 1)) == 1.0
        assert share(Bright(), images, Backdoor(nothing, 1)) == 0.25
        assert share(Bright(), images, Backdoor(nothing, 0)) == 0.75


def test_archetypes_are_drawn_as_poisoned_distillation_draws_its_own():
    draw = metrics.asr_archetypes.method.makes["archetypes"]
    assert metrics.base_archetypes.method.makes["archetypes"] is draw, "drawn once for both"
    options = inspect.signature(draw).parameters
    attack = registry.get("attacks", "poisoned_distillation").options
    shared = {name: p for name, p in options.items() if p.kind is p.KEYWORD_ONLY and name != "rng"}
    assert {name: p.default for name, p in shared.items()} == {name: attack[name].default for name in shared}
    made = ImageSet(torch.rand(8, 3, 32, 32, generator=rng(0)), torch.arange(8) % 4, tuple("abcd"))
    first, again = (draw(made, net_steps=2, archetype_steps=2, archetypes_per_class=2, rng=rng(1)) for _ in range(2))
    assert torch.equal(first.x, again.x) and first.y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert float(first.x.min()) >= 0 and float(first.x.max()) <= 1 + 1e-6
    free = draw(made, net_steps=2, archetype_steps=2, as_published=True, rng=rng(1))
    assert float(free.x.min()) < 0 and len(free) == 4
