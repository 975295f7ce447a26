"""A defence's rate is chosen on images that it does not see, by one rule that knows neither trigger nor test image."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.training_fixture import images
from torch import nn

from distrust import BadInput, Diverged, Suspect, fit, purify
from distrust.auditing.tuning import clean, tuned
from distrust.data import PLAIN
from distrust.marks import Positive, defense
from distrust.registry import Method, registry
from distrust.selectors import parse_one

SEEN = []


@defense(paper="none")
def spoil(model: nn.Module, clean, *, lr: Positive = 1.0, rng=None) -> nn.Module:
    """Spoil a share of the answers that grows with the rate.

    Args:
        model: any.
        clean: written down.
        lr: above 0.5 it diverges; above 0.4 all images become one class; above 0.05 none is called that class.
        rng: not used.
    """
    SEEN.append((lr, clean.index))
    if lr > 0.5:
        raise Diverged("too far")
    made = copy.deepcopy(model)
    with torch.no_grad():
        list(made.modules())[-1].bias[0] += 1000 if lr > 0.4 else -1000 if lr > 0.05 else 0
    return made


SPOIL = Method("spoil", spoil.method, spoil)


@pytest.fixture(scope="module")
def suspect():
    train = images(300)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    made = fit(network, train, epochs=20, batch_size=16, augment=PLAIN, lr=0.02)
    return Suspect(made, train, images(198), (), "linear", "images")


def cleaned(text, suspect, method=SPOIL):
    SEEN.clear()
    lines = []
    return clean(method, tuned(method, parse_one(text)), suspect.model, suspect.train, seed=0, tell=lines.append), lines


def test_the_first_candidate_that_costs_little_is_taken(suspect):
    made, lines = cleaned("spoil", suspect)
    assert [lr for lr, _ in SEEN] == [1.0, 0.3, 0.1, 0.03] and made.options == {"lr": 0.03}
    assert made.text.startswith("lr 0.03 of 1.0, 0.3, 0.1, 0.03: ACC on 60 validation images ")
    assert made.facts["chosen"] == {"lr": 0.03} and made.facts["validation"]["n"] == 60
    diverged, *tried = made.facts["validation"]["after"]
    assert diverged is None and tried[-1] == made.facts["validation"]["before"] > 0.9 > tried[0]
    assert len(SEEN[0][1]) == made.images == 240 and len({tuple(index.tolist()) for _, index in SEEN}) == 1
    assert lines == ["spoil on 240 clean images of images, 60 more for validation"]


def test_no_candidate_is_tried_beyond_the_one_that_is_good_enough(suspect):
    made, _ = cleaned("spoil[lr=tune(0.04,0.02)]", suspect)
    assert [lr for lr, _ in SEEN] == [0.04] and made.facts["candidates"] == [{"lr": 0.04}, {"lr": 0.02}]


def test_a_rate_that_is_named_is_not_chosen_and_all_images_are_seen(suspect):
    made, _ = cleaned("spoil[lr=0.03]", suspect)
    assert len(SEEN) == 1 and made.images == 300 and made.facts == {} and made.text == ""


def test_where_none_is_good_enough_the_best_is_taken_and_said(suspect):
    made, _ = cleaned("spoil[lr=tune(0.7,0.3)]", suspect)
    assert made.options == {"lr": 0.3} and "every one of them costs more than 5 points" in made.text
    made, _ = cleaned("spoil[lr=tune(0.3,0.45)]", suspect)
    better, worse = made.facts["validation"]["after"]
    assert made.options == {"lr": 0.3} and better > worse, "not the last one that was tried"
    with pytest.raises(Diverged, match="too far"):
        cleaned("spoil[lr=tune(0.7,0.6)]", suspect)


def test_what_cannot_be_chosen_is_refused(suspect):
    few = Suspect(suspect.model, suspect.train[:6], suspect.test, (), "linear", "images")
    with pytest.raises(BadInput, match=r"6 clean images are too few .* spoil\[lr=0.03\]"):
        cleaned("spoil", few)
    opened = {"head": False}
    encoder = Suspect(suspect.model, suspect.train, suspect.test, (), "linear", "images", opened=opened)
    for text in ("clp[u=tune(1,2)]", "bcu[lr=tune(0.1,0.2)]"):
        with pytest.raises(BadInput, match="an encoder has no accuracy to choose by"):
            purify(text, encoder)
    with pytest.raises(BadInput, match="greater than 0"):
        cleaned("spoil[lr=tune(0.04,-1)]", suspect)
    assert not SEEN, "before any work"


def test_only_the_rate_of_a_classifiers_defence_is_chosen():
    for name, text in (("none", "none"), ("finetune_ssl", "finetune_ssl"), ("nad", "nad[lr=0.02]")):
        assert tuned(registry.get("defenses", name), parse_one(text)) == parse_one(text)
    ladder = tuned(registry.get("defenses", "nad"), parse_one("nad[beta=0]")).text
    assert ladder == "nad[beta=0,lr=tune(0.1,0.03,0.01,0.003)]"


def test_purify_takes_all_images_by_default_and_records_the_choice(suspect):
    told = []
    method = "finetune[epochs=1,flip=false,crop=0,cutout=0,lr=tune(0.002,0.001)]"
    made = purify(method, suspect, tell=told.append)
    assert made.facts["clean"] == 240 and made.facts["validation"]["n"] == 60
    assert str(made).startswith("lr 0.002 of 0.002, 0.001: ACC on 60 validation images ")
    assert purify("finetune[epochs=1,lr=0.001]", suspect).facts["clean"] == 300
    assert purify("finetune[epochs=1,lr=0.001]", suspect, fraction=0.1).facts["clean"] == 30


def test_a_defence_that_destroys_a_model_is_not_judged(suspect):
    from distrust import judged

    made = purify("finetune[epochs=1,lr=1]", suspect)
    assert made.after.acc < made.before.acc - 0.2 and "acc-floor" in made.flags and not judged(made.after)
