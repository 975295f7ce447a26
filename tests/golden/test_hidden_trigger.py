"""The hidden trigger's distance, its pairing and its poisons, against NumPy float64.

Source: Saha, Subramanya, Pirsiavash, arXiv 1910.00033: min over z of ‖f(z) − f(s*)‖² with ‖z − t‖_∞ ≤ 16/255, poisons
and patched images paired one to one, the nearest first, anew in every step; labels stay.
"""

import importlib

import numpy as np
import pytest
import torch
from tests.contracts import flat

from distrust import rng
from distrust.methods import attacks
from distrust.methods.attacks.hidden_trigger import _collision_loss, _craft, _distances, _pair
from distrust.models import Taps

module = importlib.import_module("distrust.methods.attacks.hidden_trigger")
SHAPES = {"map": (3, 2, 2), "vector": (5,)}


def draw(seed: str, batch: int) -> dict[str, torch.Tensor]:
    generator = rng(seed)
    return {path: torch.randn(batch, *shape, generator=generator) for path, shape in SHAPES.items()}


def numpy_distance(ours, theirs) -> float:
    """Of one image's features to another's, in float64."""
    parts = [(a.detach().double().numpy(), b.double().numpy()) for a, b in zip(ours, theirs, strict=True)]
    return sum(((a - b) ** 2).sum() / a.size for a, b in parts)


@pytest.fixture
def trained_on(monkeypatch):
    """The poisoned sets that the attack fine-tunes on; nothing is trained."""
    seen = []

    def fit(model, train, **options):
        seen.append(train)
        return model

    monkeypatch.setattr(module, "fit", fit)
    return seen


def test_the_distances_are_numpys():
    goals, features = draw("goals", 4), draw("features", 3)
    found = _distances(goals, features)
    for i in range(4):
        for j in range(3):
            expected = numpy_distance([f[j] for f in features.values()], [g[i] for g in goals.values()])
            assert found[i, j].item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_the_sum_of_the_pairs_distances_and_has_a_gradient():
    goals, features = draw("goals", 4), draw("features", 4)
    for feature in features.values():
        feature.requires_grad_()
    loss = _collision_loss(features, goals)
    assert loss.item() == pytest.approx(_distances(goals, features).diagonal().sum().item(), rel=1e-4)
    loss.backward()
    for path, feature in features.items():
        torch.testing.assert_close(feature.grad, 2 * (feature.detach() - goals[path]) / feature[0].numel())
        assert feature.grad.count_nonzero() == feature.numel()


def test_the_nearest_pair_comes_first_and_no_row_serves_twice():
    """Column 1 takes row 0 at distance 1, so column 0, nearest to row 0 too, is left with row 2."""
    distances = torch.tensor([[2.0, 1.0], [9.0, 4.0], [3.0, 5.0]])
    before = distances.clone()
    assert _pair(distances).tolist() == [2, 0]
    assert torch.equal(distances, before)
    assert _pair(torch.zeros(3, 3)).tolist() == [0, 1, 2], "of equals the first"
    assert sorted(_pair(torch.rand(7, 7, generator=rng(0))).tolist()) == list(range(7))


def test_a_step_goes_against_the_gradients_sign_and_sizes_halve():
    """f(z) = z: every pixel walks towards its mate's by 8, 4, 2, 1, 0.5 levels, one step each, and stops at 10."""

    def read(x):
        return Taps(x[:, :, 0, 0], {"pixels": x})

    clean, patched = torch.full((1, 1, 2, 2), 100 / 255), torch.full((1, 1, 2, 2), 200 / 255)
    patched[..., 1] = 0
    for bound, walked in [(255, 15.5), (10, 10)]:
        poisons, curve = _craft(read, clean, patched, bound / 255, 5, 8 / 255)
        expected = np.array([[[[100 + walked, 100 - walked]] * 2]])
        np.testing.assert_allclose(poisons.numpy() * 255, expected, atol=1e-3)
    assert curve[0].item() == pytest.approx((100 / 255) ** 2, rel=1e-5) and (curve.diff() <= 0).all()


@pytest.mark.parametrize("layers", ["embedding", "pre-relu"])
def test_poisons_are_target_images_within_the_bound_and_keep_their_label(tiny, net, trained_on, layers):
    options = {"trigger": "patch:checker:4", "target": 2, "rate": 0.55, "layers": layers, "steps": 10}
    notes = flat(attacks.hidden_trigger)(net, tiny, **options, poison_batch=8, rng=rng(0)).notes
    (poisoned,) = trained_on
    change = poisoned.x.int() - tiny.x.int()
    rows = change.flatten(1).any(1)
    assert rows.sum() == notes["poisons"] == 11 and (tiny.y[rows] == 2).all()
    assert torch.equal(poisoned.y, tiny.y) and poisoned.taint == ("hidden_trigger",)
    assert 4 < change.abs().max() <= 16
    assert notes["loss"][-1] < 0.9 * notes["loss"][0] and len(notes["loss"]) == 10


def test_rate_0_and_bound_0_poison_nothing(tiny, net, trained_on):
    for none in ({"rate": 0.0}, {"bound": 0}):
        flat(attacks.hidden_trigger)(net, tiny, **none, steps=2, rng=rng(0))
        assert torch.equal(trained_on.pop().x, tiny.x)


def test_the_last_layer_alone_is_trained_if_asked(tiny, net):
    options = {"steps": 1, "epochs": 1, "batch_size": 40, "lr": 0.1, "rng": rng(0)}
    planted = flat(attacks.hidden_trigger)(net, tiny, last_only=True, **options).model
    moved = [name for name, p in planted.named_parameters() if not torch.equal(p, net.get_parameter(name))]
    assert moved == ["fc.weight", "fc.bias"]
