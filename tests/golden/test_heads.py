"""Heads: the first steps of the small network in float64, and the votes of neighbours in NumPy.

Sources: BadEncoder's released code (Adam without decay on features that are computed once); Wu et al., CVPR 2018.
"""

import copy
import importlib

import numpy as np
import pytest
import torch
from tests.golden.steps import adam, double, near
from torch import nn
from torch.nn import functional as F

from distrust import rng
from distrust.methods import heads
from distrust.training import NeighbourMonitor

Z, Y = F.normalize(torch.randn(24, 6, generator=rng("features")), dim=1), torch.arange(24) % 3


def test_the_perceptron_learns_the_labels_by_adam_without_decay(monkeypatch):
    """Two epochs, a batch each."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        start = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.0), nn.Linear(9, 3))
    shapes = []
    file = importlib.import_module("distrust.methods.heads.mlp")
    monkeypatch.setattr(file, "make", lambda kind, rng, **shape: shapes.append((kind, shape)) or copy.deepcopy(start))
    made = heads.mlp(Z, Y, 3, epochs=2, lr=0.01, batch_size=24, dropout=0.25, rng=rng(0))
    want = double(start, True)
    adam([want], lambda: F.cross_entropy(want(Z.double()), Y), 2, 0.01)
    near(made, want, start, share=1e-2)
    assert shapes == [("perceptron", {"features": 6, "classes": 3, "dropout": 0.25})]


@pytest.mark.parametrize(("k", "temperature"), [(5, 0.1), (200, 0.5)])
def test_neighbours_vote_by_the_exponential_of_their_cosine(k, temperature):
    asked = torch.randn(7, 6, generator=rng("asked"))
    fitted = heads.knn(Z, Y, 3, k=k, temperature=temperature)
    bank, x = Z.double().numpy(), asked.double().numpy()
    cosines = x / np.linalg.norm(x, axis=1, keepdims=True) @ bank.T
    votes = np.zeros((7, 3))
    for i, row in enumerate(cosines):
        for j in np.argsort(-row)[:k]:
            votes[i, Y[j]] += np.exp(row[j] / temperature)
    said = fitted(asked).softmax(1).double().numpy()
    np.testing.assert_allclose(said, votes / votes.sum(1, keepdims=True), atol=1e-4)


def test_a_monitor_asks_about_images_that_do_not_vote(tiny, encoder):
    known, asked = tiny[:40], tiny[40:]
    monitor = NeighbourMonitor(known, asked, "knn[k=1]")
    monitor(encoder)
    bank, shown = (double(encoder, False)(part.pixels().double()).detach() for part in (known, asked))
    nearest = (F.normalize(shown, dim=1) @ F.normalize(bank, dim=1).T).argmax(1)
    assert monitor.accuracy == [pytest.approx(float((known.y[nearest] == asked.y).double().mean()))]
    assert monitor.accuracy[0] < 0.9
