"""ADVKD's two losses, and who learns from whom, against NumPy float64.

Source: Wang et al., arXiv 2208.06176, as CheatKD describes its baseline: a backdoored teacher labels clean and
poisoned images, and a clean one learns these labels and the features at the ends of the layer groups.
"""

import importlib
import math

import numpy as np
import pytest
import torch
from tests.contracts import flat

from distrust import rng
from distrust.methods import attacks
from distrust.methods.attacks.advkd import _answer_loss, _feature_loss
from distrust.models import Taps, resolve

module = importlib.import_module("distrust.methods.attacks.advkd")


def draw(seed: str, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=rng(seed))


def numpy_kl(ours, theirs, temperature: float) -> float:
    """One image at a time, in float64."""
    total = 0.0
    for s, t in zip(ours.detach().double().numpy(), theirs.double().numpy(), strict=True):
        q, p = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (s, t))
        total += (p * np.log(p / q)).sum()
    return temperature**2 * total / len(ours)


def test_the_answers_by_hand():
    """Labeller (1/2, 1/2), copy (1/4, 3/4): ½·ln 2 + ½·ln 2/3, and four times that at T = 2."""
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    theirs, ours = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    assert _answer_loss(ours, theirs, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert _answer_loss(2 * ours, theirs, 2.0).item() == pytest.approx(4 * expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_answers_are_numpys_and_have_a_gradient(temperature):
    ours, theirs = draw("ours", 8, 10).requires_grad_(), draw("theirs", 8, 10)
    loss = _answer_loss(ours, theirs, temperature)
    assert loss.item() == pytest.approx(numpy_kl(ours, theirs, temperature), rel=1e-4)
    loss.backward()
    gap = (ours.detach() / temperature).softmax(1) - (theirs / temperature).softmax(1)
    torch.testing.assert_close(ours.grad, temperature * gap / 8)


def test_the_features_are_numpys_and_have_a_gradient():
    ours = {"a": draw("a", 2, 3, 4, 4).requires_grad_(), "b": draw("b", 2, 5).requires_grad_()}
    theirs = {"a": draw("c", 2, 3, 4, 4), "b": draw("d", 2, 5)}
    loss = _feature_loss(ours, theirs)
    pairs = [(ours[k].detach().double().numpy(), theirs[k].double().numpy()) for k in ours]
    assert loss.item() == pytest.approx(sum(((s - t) ** 2).mean() for s, t in pairs), rel=1e-5)
    loss.backward()
    assert all(feature.grad.count_nonzero() for feature in ours.values())


def test_the_copy_learns_the_labellers_answers_and_features_and_no_label(tiny, net, monkeypatch):
    calls = {}

    def fit(model, train, **options):
        calls["labeller"], calls["taught"] = model, train
        return model

    def distill(student, teacher, train, **options):
        calls.update(options, student=student, teacher=teacher, learnt=train)
        return student

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "distill", distill)
    flat(attacks.advkd)(net, tiny, target=1, rate=0.2, stamp="before", temperature=2.0, feature_weight=0.5, rng=rng(0))
    assert calls["labeller"] is calls["teacher"] is calls["student"] is net  # each trains a copy of its own
    assert calls["taught"] is calls["learnt"] and calls["label_weight"] == 0 and calls["teacher_mode"] == "eval"
    stamped = (calls["learnt"].x != tiny.x).flatten(1).any(1)
    assert stamped.sum() == 16 and (tiny.y[stamped] != 1).all() and (calls["learnt"].y[stamped] == 1).all()
    assert calls["layers"] == resolve(net, "pre-relu", (3, 8, 8))

    paths = calls["layers"]
    ours, theirs = (Taps(draw(s, 8, 4), {p: draw(s + p, 8, 2, 2, 2) for p in paths}) for s in ("s", "t"))
    features = sum(((ours.features[p] - theirs.features[p]).double().numpy() ** 2).mean() for p in paths)
    expected = numpy_kl(ours.logits, theirs.logits, 2.0) + 0.5 * features
    assert calls["loss"](ours, theirs, torch.arange(8) % 4).item() == pytest.approx(expected, rel=1e-4)

    flat(attacks.advkd)(net, tiny, feature_weight=0.0, rng=rng(0))
    assert calls["layers"] == [], "no feature is read for nothing"
    bare = Taps(ours.logits, {}), Taps(theirs.logits, {})
    assert calls["loss"](*bare, None).item() == pytest.approx(numpy_kl(ours.logits, theirs.logits, 1.0), rel=1e-4)


def test_the_copy_takes_over_the_trigger(tiny, net):
    """More passes make stamped images more of the target class."""
    options = {"rate": 0.5, "batch_size": 40, "lr": 0.05, "flip": False, "crop": 0, "labeller_epochs": 10}
    short, long = (flat(attacks.advkd)(net, tiny, epochs=n, **options, rng=rng(0)) for n in (1, 20))
    assert short.notes == long.notes and 0 <= long.notes["labeller_asr"] <= 1
    x = long.backdoor.stamp_on(tiny.pixels(tiny.y != 0))
    towards = [planted.model(x).softmax(1)[:, 0].mean() for planted in (short, long)]
    assert towards[1] > towards[0]
