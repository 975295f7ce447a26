"""Re-tuning, held against five full-batch steps of softmax regression in NumPy, float64."""

import numpy as np
import pytest
import torch
from torch import nn

from distrust import metrics, rng
from distrust.data import ImageSet
from distrust.errors import Skip
from distrust.measurement import Backdoor, make_trigger

TARGET, SIDE, CLASSES = 1, 4, 4
BACKDOOR = Backdoor(make_trigger("patch:white:2"), TARGET)


def noise(n, name):
    x = torch.randint(256, (n, 3, SIDE, SIDE), generator=rng("retune", name), dtype=torch.uint8)
    return ImageSet(x, torch.arange(n) % CLASSES, tuple("abcd"), name=name)


def linear(seed):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=rng("weights", seed)))
    return net


def stamped(x):
    """White lies in the last two rows and columns."""
    x = x.copy()
    x[:, :, -2:, -2:] = 1.0
    return x


def poisoned(clean, count, stream):
    """What the metric trains on: `count` images of other classes with the trigger and the target's label."""
    draw = int(torch.randint(2**62, (), generator=stream))
    others = [i for i, y in enumerate(clean.y.tolist()) if y != TARGET]
    order = torch.randperm(len(others), generator=rng("retune", "rows", draw)).tolist()
    rows = [others[i] for i in order[:count]]
    x, y = clean.x.numpy().astype(np.float64) / 255, clean.y.numpy().copy()
    x[rows], y[rows] = stamped(x[rows]), TARGET
    return x, y


def returned(net, x, y, test, epochs, lr):
    """ASR after so many steps of gradient descent with momentum 0.9 on all images."""
    w, b = (p.detach().numpy().astype(np.float64) for p in (net[1].weight, net[1].bias))
    x, hot, speed = x.reshape(len(x), -1), np.eye(CLASSES)[y], [0.0, 0.0]
    for _ in range(epochs):
        z = x @ w.T + b
        p = np.exp(z - z.max(1, keepdims=True))
        wrong = (p / p.sum(1, keepdims=True) - hot) / len(x)
        speed = [0.9 * v + g for v, g in zip(speed, (wrong.T @ x, wrong.sum(0)), strict=True)]
        w, b = w - lr * speed[0], b - lr * speed[1]
    triggered = stamped(test.x.numpy().astype(np.float64) / 255).reshape(len(test), -1)
    said = (triggered @ w.T + b).argmax(1)
    return (said == TARGET)[test.y.numpy() != TARGET].mean()


@pytest.mark.parametrize("count, epochs, lr", [(5, 5, 0.03), (12, 5, 0.01), (5, 1, 0.1)])
def test_the_asr_that_comes_back_is_that_of_softmax_regression(count, epochs, lr):
    clean, test, ours, theirs = noise(60, "clean"), noise(800, "test"), linear(1), linear(2)
    training = metrics.retune.training.changed(epochs=epochs, lr=lr)
    found = metrics.retune(ours, clean, test, BACKDOOR, theirs, poisoned=count, training=training, rng=rng("any"))
    x, y = poisoned(clean, count, rng("any"))
    values = [returned(net, x, y, test, epochs, lr) for net in (ours, theirs)]
    assert min(values) > 0.02 and max(values) < 0.98 and values[0] != values[1], "the test can tell"
    assert found["retune"] == pytest.approx(values[0], abs=2e-3), "at most one image of 600 lies on the border"
    assert found["base_retune"] == pytest.approx(values[1], abs=2e-3)
    assert found["carried_retune"] == found["retune"] - found["base_retune"]


def test_the_defaults_are_those_of_the_released_code():
    options = metrics.retune.training.plain()
    assert {k: options[k] for k in ("epochs", "lr", "batch_size", "momentum", "nesterov", "weight_decay")} == {
        "epochs": 5, "lr": 0.01, "batch_size": 128, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0,
    }  # fmt: skip
    assert options["schedule"] == "constant" and options["optimizer"] == "sgd"


def test_without_a_control_there_is_no_base_and_with_too_few_images_no_number():
    clean, test = noise(60, "clean"), noise(80, "test")
    found = metrics.retune(linear(1), clean, test, BACKDOOR)
    assert found["base_retune"] is found["carried_retune"] is None and found["retune"] is not None
    own = clean[clean.y == TARGET]
    with pytest.raises(Skip, match="poisons 5 images of other classes; clean has 0"):
        metrics.retune(linear(1), own, test, BACKDOOR)
    soft = clean.replace(y=torch.eye(CLASSES)[clean.y])
    assert metrics.retune(linear(1), soft, test, BACKDOOR) == found, "of soft labels the largest counts"
