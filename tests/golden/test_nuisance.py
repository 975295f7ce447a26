"""Nuisance statistics against NumPy float64, from their docstring; they are ours."""

import numpy as np
import torch
from torch import nn

from distrust import metrics, rng


def test_confidence_is_of_the_answer_and_weights_are_lengths_of_rows(tiny):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(4, 192, generator=rng("weight")) / 5)
        net[1].bias.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1]))
    w, b = (part.detach().double().numpy() for part in (net[1].weight, net[1].bias))
    z = tiny.x.double().numpy().reshape(len(tiny), -1) / 255 @ w.T + b
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    found = metrics.nuisance(net, tiny)
    np.testing.assert_allclose(found["confidence"], p.max(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["weights"], np.sqrt((w**2).sum(1)).mean(), rtol=1e-5)
