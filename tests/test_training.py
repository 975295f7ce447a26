from __future__ import annotations

import copy
import math
import sys

import numpy as np
import pytest
import torch
from tests.training_fixture import FAST, bits, images, net, same
from torch import nn

from distrust.data import PLAIN, Augment, Late
from distrust.errors import BadInput, Diverged
from distrust.models import model
from distrust.seeds import rng
from distrust.training import Training, cross_entropy, fit, watching
from distrust.training.graphed import recordable

training = sys.modules["distrust.training.loop"]  # the module; the package gives the function its name


# fit


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    def run(seed):
        return bits(fit(net(dropout=0.5), images(), rng=rng(seed), **FAST | {"epochs": 3}))

    assert same(run(1), run(1))
    assert not same(run(1), run(2))
    assert same(bits(fit(net(), images(), **FAST)), bits(fit(net(), images(), **FAST)))


def test_dropout_does_not_depend_on_the_global_stream():
    first = fit(net(dropout=0.5), images(), **FAST)
    torch.rand(7)
    assert same(bits(first), bits(fit(net(dropout=0.5), images(), **FAST)))


@pytest.mark.parametrize("grad", [True, False])
def test_a_fit_leaves_everything_as_it_was(grad):
    model, train = net(), images()
    model[1].eval()
    before, modes, x = bits(model), [m.training for m in model.modules()], train.x.clone()
    stream, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.set_grad_enabled(grad):
        fitted = fit(model, train, **FAST)
        assert torch.is_grad_enabled() == grad
    assert same(bits(model), before) and [m.training for m in model.modules()] == modes
    assert all(p.grad is None for m in (model, fitted) for p in m.parameters())
    assert torch.equal(train.x, x) and torch.equal(torch.get_rng_state(), stream)
    assert torch.get_num_threads() == threads
    assert not same(bits(fitted), before)


def test_a_fitted_model_is_in_eval_mode_contiguous_and_better():
    model, train = net(width=8), images(96)
    fitted = fit(model, train, **FAST | {"epochs": 10, "memory_format": "channels_last"}, augment=PLAIN)
    assert not any(m.training for m in fitted.modules())
    assert all(p.is_contiguous() for p in fitted.parameters())

    def loss(m):
        return float(cross_entropy(m.eval(), train.pixels(), train.y).detach())

    assert loss(fitted) < 0.5 * loss(copy.deepcopy(model))


def rates(monkeypatch, **options):
    """The learning rate of each step, read from the optimiser while the objective runs."""
    solvers, seen, make = [], [], Training.solver

    def spy(self, parameters):
        solvers.append(make(self, parameters))
        return solvers[-1]

    def objective(model, x, y):
        seen.append(solvers[-1].param_groups[0]["lr"])
        return cross_entropy(model, x, y)

    monkeypatch.setattr(Training, "solver", spy)
    fit(net(), images(48), objective=objective, **FAST | options)
    return seen


def test_one_cycle_warms_up_from_a_25th_over_30_percent_and_falls_to_almost_nothing(monkeypatch):
    epochs, lr = 10, 0.2
    seen = rates(monkeypatch, epochs=epochs, lr=lr)
    steps = 3 * epochs
    top = 0.3 * (steps + 1) - 1  # where PyTorch puts the peak; one more step is planned than taken

    def half_cosine(start, end, share):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    want = [
        half_cosine(lr / 25, lr, i / top) if i <= top else half_cosine(lr, lr / 25 / 1e4, (i - top) / (steps - top))
        for i in range(steps)
    ]
    np.testing.assert_allclose(seen, want, rtol=1e-9)
    assert 0.95 * lr < max(seen) <= lr and abs(seen.index(max(seen)) - top) < 1


def test_cosine_falls_from_the_rate_to_zero(monkeypatch):
    seen = rates(monkeypatch, epochs=4, schedule="cosine", lr=0.1)
    np.testing.assert_allclose(seen, [0.05 * (1 + math.cos(math.pi * i / 12)) for i in range(12)], rtol=1e-6)


def test_a_step_schedule_divides_by_10_after_epoch_2(monkeypatch):
    seen = rates(monkeypatch, epochs=4, schedule="step", milestones=(2,), lr=0.1)
    np.testing.assert_allclose(seen, [0.1] * 6 + [0.01] * 6, rtol=1e-9)


def test_a_constant_rate_stays(monkeypatch):
    assert rates(monkeypatch, epochs=2, schedule="constant", lr=0.3) == [0.3] * 6


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "step", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_schedule_runs_with_every_optimizer(schedule, optimizer):
    fitted = fit(net(), images(), optimizer=optimizer, schedule=schedule, lr=0.01, milestones=(1,), **FAST)
    assert all(p.isfinite().all() for p in fitted.parameters())


def test_plain_sgd_is_what_the_formula_says():
    train, model = images(16), net()
    by_hand = copy.deepcopy(model)
    options = {"schedule": "constant", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.01, "augment": PLAIN}
    fitted = fit(model, train, **FAST, **options)
    by_hand.train()
    cross_entropy(by_hand, train.pixels(), train.y).backward()
    for p, q in zip(by_hand.parameters(), fitted.parameters(), strict=True):
        torch.testing.assert_close(p - 0.1 * (p.grad + 0.01 * p), q, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_stay():
    model = net()
    model[0].requires_grad_(False)
    fitted = fit(model, images(), **FAST)
    assert torch.equal(fitted[0].weight, model[0].weight) and not torch.equal(fitted[3].weight, model[3].weight)


def test_soft_labels_train():
    assert not same(bits(fit(net(), images(soft=True), **FAST)), bits(net()))


def test_fewer_images_than_a_batch_make_one_step():
    seen = []
    with watching(lambda *news: seen.append(news)):
        fit(net(), images(5), **FAST | {"epochs": 2})
    assert [(step, steps) for step, steps, _ in seen] == [(2, 2)]


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.inf}, {"lr": math.nan}, {"momentum": 1.0},
        {"momentum": -0.1}, {"weight_decay": -1e-4}, {"schedule": "linear"}, {"optimizer": "lion"},
        {"precision": "fp16"}, {"memory_format": "chaos"},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_named(options):
    ((name, value),) = options.items()
    with pytest.raises(BadInput, match=f"{name}=.*{value}"):
        fit(net(), images(), **FAST | options)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="classes"):
        fit(net(), images().replace(classes=("a", "b", "c", "d")), **FAST)


def test_a_loss_that_is_not_a_number_names_step_and_rate():
    calls = []

    def objective(model, x, y):
        calls.append(x)
        return cross_entropy(model, x, y) * (math.nan if len(calls) == 5 else 1)

    with pytest.raises(Diverged, match=r"the loss is nan at step 5 of 6, learning rate 0\.07"):
        fit(net(), images(), objective=objective, lr=0.07, schedule="constant", **FAST | {"epochs": 2})


def test_a_loss_that_explodes_stops_the_run_early():
    steps = []

    def objective(model, x, y):
        steps.append(x)
        return cross_entropy(model, x, y) * (1000 if len(steps) > 2 else 1)

    with pytest.raises(Diverged, match="at step 3 of 300"):
        fit(net(), images(), objective=objective, lr=1e-6, **FAST | {"epochs": 100})
    assert len(steps) == training.CHECK_EVERY


class White(nn.Module):
    def forward(self, x):
        return torch.full_like(x, 3.0)


def test_a_late_trigger_is_stamped_after_augmentation():
    rows = torch.zeros(48, dtype=torch.bool)
    rows[::4] = True
    train = images(late=Late(rows, White())).replace(x=torch.full((48, 3, 8, 8), 7, dtype=torch.uint8))
    seen = []

    def objective(model, x, y):
        seen.extend(x.flatten(1).min(1).values.tolist())
        return cross_entropy(model, x, y)

    fit(net(), train, objective=objective, augment=Augment(crop=2), **FAST)
    assert sum(v == 1 for v in seen) == 12  # the whole image is white, the padding of the crop too
    assert len(seen) == 48


# watching


def test_a_watcher_hears_the_last_step_and_the_mean_loss():
    seen, losses = [], []

    def objective(model, x, y):
        losses.append(cross_entropy(model, x, y))
        return losses[-1]

    with watching(lambda *news: seen.append(news)):
        fit(net(), images(), objective=objective, **FAST | {"epochs": 6})
    assert [(step, steps) for step, steps, _ in seen] == [(16, 18), (18, 18)]
    np.testing.assert_allclose(seen[0][2], np.mean([float(v.detach()) for v in losses[:16]]), rtol=1e-6)
    np.testing.assert_allclose(seen[1][2], np.mean([float(v.detach()) for v in losses[16:]]), rtol=1e-6)


def test_a_nested_watcher_gives_way_to_the_outer_one_again():
    outer, inner = [], []
    with watching(lambda *news: outer.append(news)):
        with pytest.raises(ZeroDivisionError), watching(lambda *news: inner.append(news)):
            fit(net(), images(), **FAST)
            raise ZeroDivisionError
        fit(net(), images(), **FAST)
    fit(net(), images(), **FAST)
    assert len(outer) == len(inner) == 1


def test_passes_are_recorded_on_a_gpu_alone_and_of_networks_that_draw_nothing():
    gpu, ours = torch.device("cuda"), model("wrn10-1", images())
    assert recordable(ours, gpu) and not recordable(ours, torch.device("cpu"))
    assert not recordable(net(), gpu), "a stranger's forward may choose, or draw, in Python"
    ours.fc = nn.Sequential(nn.Dropout(0.5), ours.fc)
    assert not recordable(ours, gpu), "dropout draws"
