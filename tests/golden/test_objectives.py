"""Objectives with their own networks, in NumPy float64: linear, BatchNorm of the batch, ReLU, linear.

Sources: SimCLR, arXiv 2002.05709, equation 1; SimSiam, arXiv 2011.10566, equation 2; VICReg, arXiv 2105.04906,
equations 1 to 6, with the averages of its released code.
"""

import numpy as np
import pytest
import torch

from distrust import rng
from distrust.methods import objectives
from distrust.seeds import seeded

ONE, TWO = torch.randn(2, 8, 6, generator=rng("views"))


def bound(objective):
    with seeded(rng("objective")):
        objective.bind(6)
    return objective


def weights(module):
    return [p.detach().double().numpy() for p in module.parameters()]


def projected(z, network):
    """Through the projector, whose BatchNorm begins with weight 1 and bias 0."""
    first, gamma, beta, last, bias = weights(network)
    assert (gamma == 1).all() and (beta == 0).all()
    h = z @ first.T
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    return np.maximum(h, 0) @ last.T + bias


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_simclr_compares_what_its_projector_makes_of_both_views_in_one_batch():
    loss = bound(objectives.simclr(temperature=0.2, hidden=7, out=5))
    z = unit(projected(torch.cat([ONE, TWO]).double().numpy(), loss.projector))
    total = 0.0
    for i in range(16):
        likeness = np.exp(z @ z[i] / 0.2)
        total -= np.log(likeness[(i + 8) % 16] / (likeness.sum() - likeness[i]))
    assert loss(ONE, TWO).item() == pytest.approx(total / 16, rel=1e-4)
    assert z.shape == (16, 5)


def test_simsiam_predicts_the_other_view_each_in_a_batch_of_its_own():
    loss = bound(objectives.simsiam(hidden=7, bottleneck=3))
    seen = []
    for view in (ONE, TWO):
        z = projected(view.double().numpy(), loss.projector[0])
        z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
        seen.append((z, projected(z, loss.predictor)))
    (z1, p1), (z2, p2) = seen
    want = -((unit(p1) * unit(z2)).sum(1).mean() + (unit(p2) * unit(z1)).sum(1).mean()) / 2
    assert loss(ONE, TWO).item() == pytest.approx(want, rel=1e-3)
    crossed = -((unit(p1) * unit(z1)).sum(1).mean() + (unit(p2) * unit(z2)).sum(1).mean()) / 2
    assert abs(want - crossed) > 1e-2


def test_vicreg_is_invariance_variance_and_covariance_of_what_its_expander_makes():
    loss = bound(objectives.vicreg(invariance=3.0, variance=2.0, covariance=5.0, width=4))
    one, two = (projected(view.double().numpy(), loss.expander) for view in (ONE, TWO))
    hinge = sum(np.maximum(1 - np.sqrt(z.var(0, ddof=1) + 1e-4), 0).mean() for z in (one, two)) / 2
    shared = [np.cov(z.T) for z in (one, two)]
    apart = sum((c**2).sum() - (np.diag(c) ** 2).sum() for c in shared) / 4
    want = 3 * ((one - two) ** 2).mean() + 2 * hinge + 5 * apart
    assert loss(ONE, TWO).item() == pytest.approx(want, rel=1e-4)
    assert min(hinge, apart) > 1e-3
