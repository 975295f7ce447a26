"""Networks trained as one: what each would be alone."""

import pytest
import torch
from tests.training_fixture import bits, images, net, same
from torch import nn

from distrust import Training, fit, model, rng
from distrust.data import PLAIN
from distrust.errors import BadInput, Diverged
from distrust.training import grouped
from distrust.training.grouped import fit_together, pays


def sets(n=3, soft=False, size=8):
    """Different images of one shape."""
    first = images(48, size=size, soft=soft)
    return [first.replace(x=first.x.roll(17 * i, 0), y=first.y.roll(5 * i, 0)) for i in range(n)]


def rngs(n=3):
    return [rng("run", i) for i in range(n)]


def close(one, alone, start, share):
    """To a share of how far training moved each tensor. Adam follows signs, which rounding turns where slopes are 0."""
    for name, was in start.items():
        got, want = (m.state_dict()[name].double() for m in (one, alone))
        apart, moved = float((got - want).norm()), float((want - was).norm())
        assert apart <= share * moved, f"{name}: {apart} of {moved}"


@pytest.mark.parametrize("name", ["wrn10-1", "convnet2-w4"])
@pytest.mark.parametrize(
    "training",
    [
        Training(epochs=2, batch_size=16, lr=0.05, precision="fp32"),
        Training(
            epochs=1, batch_size=16, lr=0.001, optimizer="adam", schedule="cosine", precision="fp32", augment=PLAIN
        ),
    ],
    ids=["sgd", "adam"],
)
def test_each_is_what_it_would_be_alone(name, training):
    trains = sets(soft=training.optimizer == "adam")
    models = [model(name, train, rng=rng("net", i)) for i, train in enumerate(trains)]
    before = [bits(m) for m in models]
    grown = fit_together(models, trains, training=training, rngs=rngs(), together=True)
    for one, start, train, own, was in zip(grown, models, trains, rngs(), before, strict=True):
        alone = fit(start, train, training=training, rng=own, memory_format="contiguous")
        close(one, alone, was, 2e-3 if training.optimizer == "sgd" else 3e-2)
        assert not one.training and same(bits(start), was) and not same(bits(one), was)
        assert [p.requires_grad for p in one.parameters()] == [p.requires_grad for p in alone.parameters()]
        assert all(p.grad is None for p in one.parameters())
    assert not torch.allclose(*(next(m.parameters()) for m in grown[:2])), "they are different networks"


def test_generators_end_where_they_would_alone():
    trains, streams, alone = sets(2), rngs(2), rngs(2)
    fit_together(
        [net(seed=i) for i in (0, 1)], trains, training=Training(epochs=1, batch_size=16), rngs=streams, together=True
    )
    for i in (0, 1):
        fit(net(seed=i), trains[i], epochs=1, batch_size=16, rng=alone[i])
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(streams, alone, strict=True))


def test_frozen_weights_stay():
    models = [net(seed=i) for i in range(2)]
    for each in models:
        each[0].requires_grad_(False)
    grown = fit_together(models, sets(2), training=Training(epochs=1, batch_size=16), rngs=rngs(2), together=True)
    for one, start in zip(grown, models, strict=True):
        assert torch.equal(one[0].weight, start[0].weight) and not torch.equal(one[3].weight, start[3].weight)


def test_the_one_that_diverges_is_named():
    models = [net(seed=i) for i in range(3)]
    with torch.no_grad():
        models[1][7].weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"model 2 of 3: the loss is nan at step 1 of 3"):
        fit_together(models, sets(), training=Training(epochs=1, batch_size=16), rngs=rngs(), together=True)


def test_what_does_not_match_is_refused_and_trained_one_by_one_unless_asked():
    training = Training(epochs=1, batch_size=16, precision="fp32", memory_format="contiguous")

    def group(models, trains, **asked):
        return fit_together(models, trains, training=training, rngs=rngs(len(models)), **asked)

    with pytest.raises(BadInput, match="2 models, 3 image sets, 2 generators"):
        group([net(), net()], sets())
    for models, trains, why in (
        ([net(), net(width=8)], sets(2), "not built alike"),
        ([net(), nn.Sequential(*net(), nn.Identity())], sets(2), "not built alike"),
        ([net(dropout=0.5), net(dropout=0.5)], sets(2), "has dropout"),
        ([net(), net()], [images(48), images(32)], "as many images"),
        ([net(), net()], [images(48), images(48, soft=True)], "the same kind of labels"),
    ):
        with pytest.raises(BadInput, match=why):
            group(models, trains, together=True)
        for i, (one, start) in enumerate(zip(group(models, trains), models, strict=True)):
            assert same(bits(one), bits(fit(start, trains[i], training=training, rng=rngs()[i])))


def test_whether_it_pays_is_not_asked_of_a_cpu_and_remembered_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path))
    models, trains, training = [net(seed=i) for i in range(3)], sets(), Training(epochs=1, batch_size=16)
    asked, seconds = [], {1: 1.0, 2: 1.9, 3: 1.0}  # of a step of so many: three pay, two do not by enough

    def measured(models, *_):
        asked.append(len(models))
        return seconds[len(models)]

    monkeypatch.setattr(grouped, "_seconds", measured)
    assert not pays(models, trains, training, "cpu") and not asked
    monkeypatch.setattr(grouped, "fastest", lambda *_: ("fp32", "contiguous"))
    monkeypatch.setattr(grouped, "processor", lambda device: "a device")
    for n, answer in ((3, True), (2, False)):
        asked.clear()
        for _ in range(2):
            assert pays(models[:n], trains[:n], training, "cuda") is answer and asked == [1, n], (
                "the second: remembered"
            )
    assert not pays(models[:1], trains[:1], training, "cuda"), "one is no group"


def test_seconds_are_of_a_step_that_leaves_the_models_as_they_were():
    models, trains = [net(seed=i) for i in range(2)], [t[:16] for t in sets(2)]
    before = [bits(m) for m in models]
    training = Training(epochs=1, batch_size=16, precision="fp32", memory_format="channels_last")
    for n in (1, 2):
        assert grouped._seconds(models[:n], trains[:n], training, torch.device("cpu")) > 0
    assert all(same(bits(m), was) for m, was in zip(models, before, strict=True))
