"""Detectors of classifiers that score every class: their whole computation against NumPy float64.

Sources: MM-BD, S&P 2024, and its released code (plain steps on the margin, the sum's relative change, a gamma without
the largest, the power K); L2-TAC, arXiv 2511.08944, the minimal perturbation, by another solver than ours; STRIP, ACSAC
2019. `universal`, `twins` and `margin_fall` are ours and follow their docstrings.
"""

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from tests.golden.test_detector_steps import Softly
from torch import nn

from distrust import detectors, fit, rng
from distrust.errors import Skip
from distrust.seeds import spawn


def numbers(tensor):
    return tensor.detach().double().numpy()


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def outlying(values):
    """The lower of two in the middle, as torch has it; 1.4826 · MAD."""
    middle = np.sort(values)[(len(values) - 1) // 2]
    apart = np.abs(values - middle)
    return (values - middle) / (1.4826 * np.sort(apart)[(len(values) - 1) // 2])


def perturbation(images, drawn, w, b, k, norm, size):
    """Steepest ascent of log p_k, projected, of a linear model."""
    change = np.zeros(192)
    for rows in drawn:
        moved = images[rows] + change
        inside = (moved >= 0) & (moved <= 1)
        p = softmax(moved.clip(0, 1) @ w.T + b)
        slope = (((p - np.eye(4)[k]) @ w) * inside).mean(0)
        step = np.sign(slope) if norm == "linf" else slope / np.linalg.norm(slope)
        change = change - 2.5 * size / len(drawn) * step
        length = np.linalg.norm(change)
        change = change.clip(-size, size) if norm == "linf" else change * min(1, size / length)
    return change


@pytest.mark.parametrize(("norm", "size"), [("l2", 1.5), ("linf", 0.1)])
def test_a_universal_change_ascends_within_its_ball_and_is_scored_on_other_classes(tiny, norm, size):
    net, steps = Softly(), 7
    options = {"norm": norm, "size": size, "steps": steps, "batch_size": 16, "images": 50}
    found = detectors.universal(net, tiny, **options, rng=rng(4))
    w, b = numbers(net.fc.weight), numbers(net.fc.bias)
    images, labels = numbers(tiny.x).reshape(len(tiny), -1) / 255, tiny.y.numpy()
    stream = rng(4)
    drawn = [torch.randint(len(tiny), (16,), generator=stream).numpy() for _ in range(steps)]
    shown = torch.randperm(len(tiny), generator=stream)[:50].numpy()
    for k in range(4):
        change = perturbation(images, drawn, w, b, k, norm, size)
        p = softmax((images[shown] + change).clip(0, 1) @ w.T + b)
        others = labels[shown] != k
        assert 0 < others.sum() < 50
        assert found.scores[k] == pytest.approx(p[others, k].mean(), rel=1e-4)
        assert found.notes["reached"][k] == pytest.approx((p.argmax(1) == k)[others].mean())
    assert found.score == max(found.scores) and found.target == int(np.argmax(found.scores))


@pytest.mark.parametrize(("first", "doubled"), [(0.1, 2), (0.2, 1), (0.4, 0)])
def test_twins_are_not_moved_by_what_was_planted_at_the_size_that_moves_them(tiny, first, doubled):
    net = Softly()
    training = detectors.twins.training.changed(epochs=2, lr=0.1, batch_size=16)
    told = {"norm": "l2", "first": first, "reach": 0.4, "steps": 7, "images": 16, "held": 0.4, "copies": 2}
    found = detectors.twins(net, tiny, **told, training=training, rng=rng(4))
    stream = rng(4)
    order, cut = torch.randperm(len(tiny), generator=stream), round(0.4 * len(tiny))
    shown, own = tiny[order[:cut]], tiny[order[cut:]]
    drawn = [torch.randint(len(own), (16,), generator=stream).numpy() for _ in range(7)]
    copies = [fit(net, own, training=training, rng=spawn(stream)) for _ in range(2)]
    images, others = (numbers(part.x).reshape(len(part), -1) / 255 for part in (own, shown))

    def moved(model, k, size, steps=7):
        return perturbation(images, drawn[:steps], numbers(model.fc.weight), numbers(model.fc.bias), k, "l2", size)

    def sure(model, k, change):
        z = (others + change).clip(0, 1) @ numbers(model.fc.weight).T + numbers(model.fc.bias)
        return softmax(z)[shown.y.numpy() != k, k].mean()

    def median(size):
        return np.sort([sure(copies[0], k, moved(copies[0], k, size, 3)) for k in range(4)])[1]

    reached = [median(first * 2**i) for i in range(doubled + 1)]
    assert all(value < 0.4 for value in reached[:-1]) and reached[-1] >= 0.4
    size = first * 2**doubled
    if doubled:
        before, now = np.log(np.maximum(reached[-2:], 1e-3))
        size = size / 2 * 2 ** ((np.log(0.4) - before) / (now - before))
    assert found.notes["size"] == pytest.approx(size, rel=1e-3)
    for k in range(4):
        mine, his = moved(net, k, size), [moved(copy, k, size) for copy in copies]
        lost = sure(net, k, mine) - np.mean([sure(copy, k, mine) for copy in copies])
        owed = np.mean([sure(c, k, d) - sure(net, k, d) for c, d in zip(copies, his, strict=True)])
        assert found.scores[k] == pytest.approx(lost - owed, rel=5e-3, abs=1e-4)
        assert [found.notes[name][k] for name in ("lost", "owed")] == pytest.approx([lost, owed], rel=5e-3, abs=1e-4)
    assert copies[0].fc.weight.ne(copies[1].fc.weight).any() and copies[0].fc.weight.ne(net.fc.weight).any()
    assert found.score == max(found.scores) and found.target == int(np.argmax(found.scores))
    np.testing.assert_allclose(
        numbers(found.trigger["perturbation"]).ravel(), moved(net, found.target, size), atol=1e-4
    )
    with pytest.raises(Skip, match="shown 60 images"):
        detectors.twins(net, tiny[torch.arange(60)], rng=rng(4))


def margins(net, x, k):
    """z_k − max_{j≠k} z_j [n] of images [n,D], and that j."""
    z = x @ numbers(net.fc.weight).T + numbers(net.fc.bias)
    rivals = np.where(np.arange(4) == k, -np.inf, z)
    return z[:, k] - rivals.max(1), rivals.argmax(1)


def pushed(net, x, k, steps, lr):
    """Images after the ascent of their margins."""
    w = numbers(net.fc.weight)
    for _ in range(steps):
        x = (x + lr * (w[k] - w[margins(net, x, k)[1]])).clip(0, 1)
    return x


def noise(stream):
    return [numbers(torch.rand(5, 3, 8, 8, generator=stream)).reshape(5, -1) for _ in range(4)]


def test_mm_bd_pushes_noise_as_far_as_it_goes_and_judges_the_largest_margin_by_the_others(tiny):
    net, steps, lr = Softly(), 25, 0.02
    options = {"steps": steps, "lr": lr, "images": 5}
    found = detectors.mmbd(net, tiny, **options, tolerance=0.0, rng=rng(4))
    starts = noise(rng(4))
    largest = [margins(net, pushed(net, x, k, steps, lr), k)[0].max() for k, x in enumerate(starts)]
    assert all(margins(net, x, k)[0].max() < largest[k] for k, x in enumerate(starts))
    assert found.scores == pytest.approx(largest, rel=1e-4)
    others = np.sort(found.scores)[:-1]
    assert found.p is None, "few numbers clear nobody"
    assert found.notes["p"] == pytest.approx(1 - stats.gamma.cdf(max(found.scores), *stats.gamma.fit(others)) ** 4)
    soon = detectors.mmbd(net, tiny, **options, tolerance=1e9, rng=rng(4))
    first = [margins(net, x, k)[0].max() for k, x in enumerate(starts)]
    later = [margins(net, pushed(net, x, k, 1, lr), k)[0].max() for k, x in enumerate(starts)]
    assert all(low <= got <= high + 1e-4 for low, got, high in zip(first, soon.scores, later, strict=True))
    assert detectors.mmbd(Same(), tiny, **options, rng=rng(0)).notes["p"] is None, "nothing to tell them apart"


def test_a_margin_fall_is_the_suspects_margin_without_that_of_its_tuned_copy(tiny):
    net, steps, lr = Softly(), 25, 0.02
    training = detectors.margin_fall.training.changed(epochs=2, lr=0.1, batch_size=16)
    told = {"steps": steps, "ascent_lr": lr, "images": 5, "tolerance": 0.0}
    found = detectors.margin_fall(net, tiny, **told, training=training, rng=rng(4))
    stream = rng(4)
    copy = fit(net, tiny, training=training, rng=spawn(stream))
    starts = noise(stream)
    own, his = ([margins(n, pushed(n, x, k, steps, lr), k)[0].max() for k, x in enumerate(starts)] for n in (net, copy))
    assert found.notes["suspect"] == pytest.approx(own, rel=1e-4) != found.notes["copy"]
    assert found.notes["copy"] == pytest.approx(his, rel=1e-3)
    assert found.scores == pytest.approx(np.subtract(own, his), rel=1e-2, abs=1e-3)
    assert found.score == max(found.scores) and found.target == int(np.argmax(found.scores))
    with pytest.raises(Skip, match="shown 9 images"):
        detectors.margin_fall(net, tiny[torch.arange(9)], rng=rng(4))


class Same(nn.Module):
    """All classes are alike."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 4)

    def forward(self, x):
        return 0 * self.fc(x.flatten(1).mean(1, keepdim=True)) + 0 * x.mean()


class Deep(nn.Module):
    """Six features, four classes; class 2 is near for every image."""

    def __init__(self, near=3.0):
        super().__init__()
        self.body, self.fc = nn.Linear(192, 6), nn.Linear(6, 4)
        with torch.no_grad():
            self.body.weight.copy_(torch.randn(6, 192, generator=rng("body")) * 0.1)
            self.body.bias.zero_()  # drawn, it would be another one after every other test
            self.fc.weight.copy_(torch.randn(4, 6, generator=rng("last")))
            self.fc.bias.copy_(torch.tensor([0.0, 0.1, near, -0.2]))

    def forward(self, x):
        return self.fc(self.body(x.flatten(1)).relu())


def test_l2_tac_is_the_shortest_step_that_takes_every_image_there(tiny):
    net = Deep()
    found = detectors.l2_tac(net, tiny, images=40, rng=rng(4))
    shown = tiny[torch.randperm(len(tiny), generator=rng(4))[:40]]
    with torch.no_grad():
        features = numbers(net.body(shown.pixels().flatten(1)).relu())
    w, b = numbers(net.fc.weight), numbers(net.fc.bias)
    norms = []
    for k in range(4):
        limits = [
            {"type": "ineq", "fun": lambda s, j=j, k=k: ((features + s) @ (w[k] - w[j])).min() + b[k] - b[j]}
            for j in range(4)
            if j != k
        ]
        best = optimize.minimize(lambda s: s @ s / 2, np.ones(6), jac=lambda s: s, constraints=limits, tol=1e-12)
        norms.append(np.linalg.norm(best.x))
    assert found.notes["norm"] == pytest.approx(norms, rel=1e-4, abs=1e-5)
    assert found.scores == pytest.approx(outlying(-np.array(norms)), rel=1e-3, abs=1e-4)
    assert found.target == int(np.argmin(norms))


def test_l2_tac_skips_a_network_without_a_step_to_a_class(tiny):
    net = Deep()
    with torch.no_grad():
        net.fc.weight[1] = net.fc.weight[0]  # so that no feature tells them apart
    with pytest.raises(Skip, match="no step in the features"):
        detectors.l2_tac(net, tiny, rng=rng(0))


def test_strip_is_the_entropy_of_blends_by_what_the_suspect_says(tiny):
    net = Deep(near=2.0)
    found = detectors.strip(net, tiny, images=30, blends=4, rng=rng(4))
    stream = rng(4)
    shown = torch.randperm(len(tiny), generator=stream)[:30]
    others = torch.randint(len(tiny), (30, 4), generator=stream)
    sums = {k: [] for k in range(4)}
    with torch.no_grad():
        for i, row in zip(shown.tolist(), others.tolist(), strict=True):
            own = numbers(tiny.pixels(torch.tensor([i])))
            said = int(net(torch.tensor(own).float()).argmax())
            p = [
                softmax(numbers(net(torch.tensor((own + numbers(tiny.pixels(torch.tensor([j])))) / 2).float())))
                for j in row
            ]
            sums[said].append(np.mean([-(q * np.log(q)).sum() for q in p]))
    assert found.notes["images"] == [len(some) for some in sums.values()]
    assert 0 in found.notes["images"] and sum(count > 0 for count in found.notes["images"]) > 2
    scores = [np.log(4) - np.mean(some) if some else 0 for some in sums.values()]
    assert found.scores == pytest.approx(scores, rel=1e-4, abs=1e-6)


def test_all_classes_of_a_group_are_what_each_is_alone(tiny, monkeypatch):
    from distrust.methods.detectors import _classes

    whole = [
        detectors.universal(Softly(), tiny, steps=3, rng=rng(1)),
        detectors.mmbd(Softly(), tiny, steps=3, rng=rng(1)),
    ]
    monkeypatch.setattr(_classes, "TOGETHER", 1)
    parts = [
        detectors.universal(Softly(), tiny, steps=3, rng=rng(1)),
        detectors.mmbd(Softly(), tiny, steps=3, rng=rng(1)),
    ]
    for one, other in zip(whole, parts, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4)
