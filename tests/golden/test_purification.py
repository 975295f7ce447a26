"""One optimiser step of each defence of a classifier, from fixed weights, against NumPy in float64.

Formulas as the released code has them: FST, AISafety-HKUST/stable_backdoor_purification; FT-SAM, SAU,
SCLBD/BackdoorBench f02e353, whose authors wrote both; I-BAU, YiZeng623/I-BAU d4bfa52; ANP, csdongxian/ANP_backdoor
ec7b179; RNP, bboylyg/RNP eeae192; BNP, RJ-T/NIPS2022_EP_BNP af5150d; the curve of MCR, IBM/model-sanitization 1eff7e9.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from distrust import rng
from distrust.data import PLAIN, ImageSet
from distrust.methods import defenses
from distrust.methods.defenses._masks import learn_masks
from distrust.seeds import spawn
from distrust.training import Training, fit

N, D, K = 24, 12, 3
QUIET = np.zeros((2, 6))
STEP = Training(
    epochs=1, lr=0.5, batch_size=N, augment=PLAIN, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant",
    precision="fp32", memory_format="contiguous",
)  # fmt: skip


@pytest.fixture
def clean():
    """24 images 3×2×2 of 3 classes; an epoch is one batch, so that order means nothing."""
    x = torch.rand(N, 3, 2, 2, generator=rng("purification"))
    return ImageSet(x, torch.arange(N) % K, ("ant", "bee", "cat"), name="clean")


@pytest.fixture
def X(clean):
    return clean.x.flatten(1).double().numpy()


@pytest.fixture
def E(clean):
    return np.eye(K)[clean.y.numpy()]


def drawn(*layers: nn.Module) -> nn.Sequential:
    """A network whose weights come from a stream of their own."""
    net, draw = nn.Sequential(nn.Flatten(), *layers), rng("weights")
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=draw))
    return net


@pytest.fixture
def linear():
    return drawn(nn.Linear(D, K))


@pytest.fixture
def normed():
    """A layer of 6 units, BatchNorm, and a layer of answers."""
    return drawn(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Linear(6, K))


def numbers(net: nn.Module) -> list[np.ndarray]:
    return [p.detach().double().numpy() for p in net.parameters()]


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def slopes(W, b, X, targets):
    """Of the mean cross-entropy of a linear classifier, by W and b."""
    r = (softmax(X @ W.T + b) - targets) / len(X)
    return r.T @ X, r.sum(0)


def close(found: nn.Module, expected, rtol=1e-4):
    for ours, theirs in zip(numbers(found), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-5)


def test_fst_drives_a_new_layer_away_from_the_old_one(linear, clean, X, E):
    draw, (W0, _) = spawn(rng(0)), numbers(linear)
    W, b = ((2 * torch.rand(s, generator=draw) - 1).double().numpy() / D**0.5 for s in ((K, D), (K,)))
    gW, gb = slopes(W, b, X, E)
    moved = W - 0.5 * (gW + 0.3 * W0)
    moved *= np.linalg.norm(W0) / np.linalg.norm(moved)
    close(defenses.fst(linear, clean, alpha=0.3, training=STEP, rng=rng(0)), [moved, b - 0.5 * gb])
    assert np.abs(0.3 * W0).max() > 0.01 < np.abs(gW).max()


def test_ft_sam_steps_by_the_gradient_at_the_worst_weights_nearby(linear, clean, X, E):
    W, b = numbers(linear)
    target = 0.9 * E + 0.05 * (1 - E)  # a tenth for two other classes
    gW, gb = slopes(W, b, X, target)
    scale = 2 / np.sqrt((W * gW).ravel() @ (W * gW).ravel() + (b * gb) @ (b * gb))
    hW, hb = slopes(W + scale * W**2 * gW, b + scale * b**2 * gb, X, target)
    assert np.abs(hW - gW).max() > 0.01, "the gradient is another one there"
    close(defenses.ft_sam(linear, clean, training=STEP, rng=rng(0)), [W - 0.5 * hW, b - 0.5 * hb])
    close(defenses.ft_sam(linear, clean, rho=0.0, training=STEP, rng=rng(0)), [W - 0.5 * gW, b - 0.5 * gb])


def test_ft_sam_keeps_the_statistics_of_its_first_pass(normed, clean, X):
    A, a, *_ = numbers(normed)
    found = defenses.ft_sam(normed, clean, training=STEP, rng=rng(0))[2]
    np.testing.assert_allclose(found.running_mean.numpy(), 0.1 * (X @ A.T + a).mean(0), rtol=1e-4, atol=1e-6)


def test_ibau_steps_down_the_implicit_hypergradient(linear, clean, X, E):
    W, b = numbers(linear)
    said = np.eye(K)[(X @ W.T + b).argmax(1)]
    delta = 10 * ((softmax(X @ W.T + b) - said) @ W).mean(0)  # one step of 10 from 0, where the penalty is flat
    p = softmax((X + delta) @ W.T + b)
    r, S = p - E, np.stack([np.diag(q) - np.outer(q, q) for q in p])
    H = -np.mean([W.T @ s @ W for s in S], 0) + 0.002 * np.eye(D)
    slope = (r @ W).mean(0)
    v = sum(np.linalg.matrix_power(np.eye(D) - 0.1 * H, k) @ slope for k in range(3))
    gW, gb = r.T @ (X + delta) / N, r.mean(0)
    SWv = S @ (W @ v)
    mW, mb = (np.outer(r.sum(0), v) + SWv.T @ (X + delta)) / N, SWv.mean(0)  # of −⟨∇_δ inner, v⟩
    assert np.abs(0.1 * mW).max() > 0.01, "the implicit part counts"
    found = defenses.ibau(linear, clean, steps=3, share=1.0, training=STEP, rng=rng(0))
    close(found, [W - 0.5 * (gW + 0.1 * mW), b - 0.5 * (gb + 0.1 * mb)], rtol=1e-3)


# --- masks --------------------------------------------------------------------------------------------------


def passed(weights, X, E, mask, noise=QUIET):
    """Gradients of CE through Linear, BatchNorm of the batch, and Linear: of all six weights, mask and noise."""
    A, a, gamma, beta, C, c = weights
    h = X @ A.T + a
    sigma = np.sqrt(h.var(0) + 1e-5)
    unit = (h - h.mean(0)) / sigma
    scale = gamma * (mask + noise[0])
    z = unit * scale + beta * (1 + noise[1])
    r = (softmax(z @ C.T + c) - E) / len(X)
    dz = r @ C
    du = dz * scale
    dh = (du - du.mean(0) - unit * (du * unit).mean(0)) / sigma
    dmask = (dz * gamma * unit).sum(0)
    of_weights = [dh.T @ X, dh.sum(0), (dz * unit * (mask + noise[0])).sum(0), (dz * (1 + noise[1])).sum(0)]
    return [*of_weights, r.T @ z, r.sum(0)], dmask, np.stack([dmask, (dz * beta).sum(0)])


def pruned_as(masks, run, gamma):
    """Just above each mask its channel goes, just below it does not; the other weights stay."""
    shrunk = masks[masks < 0.99]
    assert len(shrunk) >= 2, masks
    for level in [*(shrunk - 2e-5), *(shrunk + 2e-5)]:
        found = run(float(level))[2].weight.detach().numpy()
        np.testing.assert_allclose(found, np.where(masks <= level, 0, gamma), rtol=1e-6)


def test_anp_prunes_the_channels_whose_masks_shrink_under_noise(normed, clean, X, E):
    weights, ones = numbers(normed), np.ones(6)
    noise = 0.4 * (2 * torch.rand(2, 6, generator=spawn(rng(0))).double().numpy() - 1)
    noise += 0.4 * np.sign(passed(weights, X, E, ones, noise)[2])
    slope = 0.2 * passed(weights, X, E, ones)[1] + 0.8 * passed(weights, X, E, ones, noise)[1]
    masks = np.clip(1 - 0.5 * slope, 0, 1)
    pruned_as(masks, lambda t: defenses.anp(normed, clean, threshold=t, training=STEP, rng=rng(0)), weights[2])


def test_masks_stay_between_nothing_and_all(normed, clean):
    def loss(masked, x, y):
        return nn.functional.cross_entropy(masked(x, None), y)

    far = replace(STEP, lr=50.0)
    masks = learn_masks(normed, clean, loss, method="anp", training=far, rng=rng(0)).values()
    assert {float(mask.min()) for mask in masks} == {0.0} and {float(mask.max()) for mask in masks} == {1.0}


def test_rnp_prunes_the_channels_that_recovering_does_not_need(normed, clean, X, E):
    weights, ones = numbers(normed), np.ones(6)
    climbed = [w + 0.5 * (g - 5e-4 * w) for w, g in zip(weights, passed(weights, X, E, ones)[0], strict=True)]
    masks = np.clip(1 - 0.5 * 0.4 * passed(climbed, X, E, ones)[1], 0, 1)
    options = {"alpha": 0.4, "unlearn_epochs": 1, "unlearn_lr": 0.5, "training": STEP}
    pruned_as(masks, lambda t: defenses.rnp(normed, clean, threshold=t, **options, rng=rng(0)), weights[2])


def test_rnp_climbs_until_few_answers_are_right(normed, clean):
    """With forget=1 the first epoch is enough, whatever the others may be."""
    options = {"threshold": 0.9, "unlearn_lr": 0.5, "training": STEP}
    runs = [
        defenses.rnp(normed, clean, unlearn_epochs=n, forget=f, **options, rng=rng(0))[2].weight.tolist()
        for n, f in ((1, 0.0), (6, 1.0), (6, 0.0))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_bnp_prunes_the_channels_whose_statistics_are_far_from_the_running_ones(normed, clean, X):
    A, a, gamma, *_ = numbers(normed)
    h, draw = X @ A.T + a, rng("running")
    normed[2].running_mean.copy_(torch.from_numpy(h.mean(0)) + torch.randn(6, generator=draw) / 3)
    normed[2].running_var.copy_(torch.from_numpy(h.var(0)) * (2 * torch.randn(6, generator=draw)).exp())
    mean, var = (b.double().numpy() for b in (normed[2].running_mean, normed[2].running_var))
    ours, theirs = np.sqrt(h.var(0) + 1e-5), np.sqrt(var + 1e-5)
    log, rest = np.log(theirs / ours), (ours**2 + (h.mean(0) - mean) ** 2) / (2 * theirs**2) - 0.5
    goes, board = (d > d.mean() for d in (log + rest, 2 * log + rest))
    assert (goes != board).any(), "BackdoorBench's twice the logarithm would show"
    for u in (0.0, 0.5, 1.0):
        goes = log + rest > (log + rest).mean() + u * (log + rest).std(ddof=1)
        found = defenses.bnp(normed, clean, u=u)[2]
        np.testing.assert_allclose(found.weight.detach().numpy(), np.where(goes, 0, gamma), rtol=1e-6)
        assert goes.any() and torch.equal(found.bias, normed[2].bias)


def test_finepruning_cuts_what_sleeps_and_keeps_it_cut(clean, X, E):
    net = drawn(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, K))
    A, a, W, b = numbers(net)
    h = np.maximum(X @ A.T + a, 0)
    asleep = h.mean(0).argsort()[:2]
    W = W.copy()
    W[:, asleep] = 0
    gW, gb = slopes(W, b, h, E)
    dh = (softmax(h @ W.T + b) - E) / N @ W * (h > 0)
    after = W - 0.5 * gW
    after[:, asleep] = 0
    assert np.abs(gW[:, asleep]).max() > 1e-3, "without a cut after it, the step would bring them back"
    found = defenses.finepruning(net, clean, share=0.4, training=STEP, rng=rng(0))
    close(found, [A - 0.5 * dh.T @ X, a - 0.5 * dh.sum(0), after, b - 0.5 * gb])


# --- two networks -------------------------------------------------------------------------------------------


def test_sau_unlearns_what_fools_both(linear, clean, X, E):
    W0, b0 = numbers(linear)
    W, b, led_at_all, apart_at_all = W0, b0, 0, 0.0
    for _ in range(2):  # in the second epoch the copy is no longer the suspect
        delta = np.full_like(X, 0.2)
        plain = (X @ W.T + b).argmax(1), (X @ W0.T + b0).argmax(1)
        for _ in range(3):
            p, q = softmax((X + delta) @ W.T + b), softmax((X + delta) @ W0.T + b0)
            fooled, too = p.argmax(1) != plain[0], q.argmax(1) != plain[1]
            alone = ~(fooled & too & (p.argmax(1) == q.argmax(1)))
            if not alone.any():
                break
            m = (p + q) / 2
            dp, dq = ((np.log(s) - np.log(m)) / 2 * alone[:, None] for s in (p, q))
            dz = p * (dp - (p * dp).sum(1, keepdims=True)) - 0.01 / 2 * (p - E) * ~fooled[:, None]
            dz0 = q * (dq - (q * dq).sum(1, keepdims=True)) - 0.01 / 2 * (q - E) * ~too[:, None]
            apart_at_all = max(apart_at_all, np.abs(dp).max())
            delta = np.clip(delta - 0.2 * np.sign(dz @ W + dz0 @ W0), -0.2, 0.2)
        said = ((X + delta) @ W0.T + b0).argmax(1)
        led = (said != E.argmax(1)) & (said != plain[1])
        led_at_all += led.sum()
        Y, p = np.eye(K)[said], softmax((X + delta) @ W.T + b)
        own = (p * Y).sum(1, keepdims=True)
        r = led[:, None] * own * (Y - p) / (1 - own) / N  # of −log(1 − p_y')
        gW, gb = slopes(W, b, X, E)
        W, b = W - 0.5 * (gW + r.T @ (X + delta)), b - 0.5 * (gb + r.sum(0))
    assert led_at_all and apart_at_all > 1e-3
    two = STEP.changed(epochs=2)
    close(defenses.sau(linear, clean, steps=3, training=two, rng=rng(0)), [W, b], rtol=1e-3)


def test_mcr_trains_the_bend_of_a_bezier_curve(linear, clean, X, E):
    source = rng(0)
    start, end = numbers(linear), numbers(fit(linear, clean, training=STEP.changed(epochs=3), rng=spawn(source)))
    tau = float(torch.rand((), generator=spawn(source)))

    def at(t, bend):
        return [(1 - t) ** 2 * s + 2 * t * (1 - t) * c + t**2 * e for s, c, e in zip(start, bend, end, strict=True)]

    bend = [(s + e) / 2 for s, e in zip(start, end, strict=True)]
    there = slopes(*at(tau, bend), X, E)
    bend = [c - 0.5 * 2 * tau * (1 - tau) * g for c, g in zip(bend, there, strict=True)]
    found = defenses.mcr(linear, clean, t=0.3, teacher_epochs=3, training=STEP, rng=rng(0))
    close(found, at(0.3, bend))
    assert np.abs(at(0.3, bend)[0] - at(0.3, [(s + e) / 2 for s, e in zip(start, end, strict=True)])[0]).max() > 1e-3


def test_mcr_takes_the_statistics_of_the_point_that_it_returns(normed, clean, X):
    found = defenses.mcr(normed, clean, t=0.5, teacher_epochs=1, training=STEP, rng=rng(0))
    A, a, *_ = numbers(found)
    np.testing.assert_allclose(found[2].running_mean.numpy(), (X @ A.T + a).mean(0), rtol=1e-4, atol=1e-5)
    assert found[2].momentum == 0.1
