"""Every head: from features and labels to a module that gives logits; an encoder under it stays as it was."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from distrust import fit_head, rng
from distrust.errors import BadInput
from distrust.measurement import predict
from distrust.models.heads import make
from distrust.registry import registry

from . import every, same_bits, state

SHORT = {"epochs": 20, "lr": 0.01, "k": 5}


@pytest.fixture
def known():
    """60 features of length 1, of either sign, of five classes that lie apart; the last has no image."""
    y = torch.arange(60) % 4
    centres = torch.randn(4, 6, generator=rng("centres"))
    return F.normalize(centres[y] + 0.1 * torch.randn(60, 6, generator=rng("around")), dim=1), y


def short(method):
    return {name: value for name, value in SHORT.items() if name in method.options}


def fitted(method, known, **more):
    return method.call(*known, 5, **short(method), **more)


@every("heads")
def test_it_tells_apart_what_lies_apart_and_answers_no_class_without_images(method, known):
    head = fitted(method, known, rng=rng(0))
    said = head(known[0])
    assert said.shape == (60, 5) and said.dtype == torch.float32 and said.isfinite().all()
    assert torch.equal(said.argmax(1), known[1])


@every("heads")
def test_two_classes_are_enough(method, known):
    z, y = known
    head = method.call(z, y % 2, 2, **short(method), rng=rng(0))
    assert head(z).shape == (60, 2) and (head(z).argmax(1) == y % 2).float().mean() > 0.9


@every("heads")
def test_features_and_labels_stay_as_they_were(method, known):
    before = [t.clone() for t in known]
    head = fitted(method, known, rng=rng(0))
    assert all(map(same_bits, known, before))
    own = {t.data_ptr() for t in known}
    assert not any(t.data_ptr() in own for t in head.state_dict().values()), "it keeps the caller's tensor"


@every("heads")
def test_the_same_rng_gives_the_same_bits(method, known):
    first, same = (fitted(method, known, rng=rng(0)).state_dict() for _ in range(2))
    unseeded, again = (fitted(method, known).state_dict() for _ in range(2))
    assert same_bits(first, same) and same_bits(unseeded, again)


@every("heads")
def test_the_spec_makes_it_again(method, known):
    head = fitted(method, known, rng=rng(0))
    again = make(**json.loads(json.dumps(head.spec)))
    again.load_state_dict(head.state_dict())
    assert again.spec == head.spec == copy.deepcopy(head).spec
    assert torch.equal(again.eval()(known[0]), head.eval()(known[0]))


@every("heads")
def test_the_encoder_under_it_stays_as_it_was(method, tiny, encoder):
    before, x, y = state(encoder), tiny.x.clone(), tiny.y.clone()
    given = ",".join(f"{name}={value}" for name, value in short(method).items())
    probe = fit_head(encoder, tiny, f"{method.name}[{given}]" if given else method.name, rng=rng(0))
    assert same_bits(state(encoder), before) and torch.equal(tiny.x, x) and torch.equal(tiny.y, y)
    assert probe.encoder is encoder and not any(module.training for module in probe.head.modules())
    assert predict(probe, tiny).shape == (80,)
    assert same_bits(state(encoder), before), "asking changed it"


@every("heads")
def test_a_head_is_fitted_to_an_encoder_only(method, tiny, net):
    with pytest.raises(BadInput, match=r"wrn10-1 is a classifier of 4 classes.*head=False"):
        fit_head(net, tiny, method.name)


def test_the_kind_is_there():
    assert {"linear", "knn", "mlp"} <= registry.kind("heads").keys()
