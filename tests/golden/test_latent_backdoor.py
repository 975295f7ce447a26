"""The latent backdoor's square and its feature loss, against NumPy float64.

Source: Yao et al., CCS 2019, and the released code (github.com/Huiying-Li/Latent-Backdoor): a square of a fifth of the
width, one pixel off the lower right corner, whose colours are tanh of what Adam moves; mean squared differences.
"""

import numpy as np
import pytest
import torch
from tests.contracts import flat

from distrust import fit, rng
from distrust.data import PLAIN
from distrust.methods import attacks
from distrust.methods.attacks.latent_backdoor import _feature_loss, _means
from distrust.models import resolve, taps

SHAPES = {"map": (3, 2, 2), "vector": (5,)}


def draw(seed: str, *batch: int) -> dict[str, torch.Tensor]:
    generator = rng(seed)
    return {path: torch.randn(*batch, *shape, generator=generator) for path, shape in SHAPES.items()}


def numpy_loss(features, goals) -> float:
    """One image at a time, in float64."""
    total = 0.0
    for path, feature in features.items():
        f, goal = feature.detach().double().numpy(), goals[path].detach().double().numpy()
        total += sum(((one - goal) ** 2).mean() for one in f) / len(f)
    return total


def features_of(net, places, x) -> dict[str, torch.Tensor]:
    """Features of a network in eval mode."""
    net.eval()
    with taps(net, places) as read, torch.no_grad():
        return read(x).features


def test_by_hand():
    """Two images, one value each, goal 1: ((3 − 1)² + (0 − 1)²) / 2, plus the same for a second layer."""
    features, goals = {"a": torch.tensor([[3.0], [0.0]])}, {"a": torch.tensor([1.0])}
    assert _feature_loss(features, goals).item() == 2.5
    twice = [part | {"b": part["a"]} for part in (features, goals)]
    assert _feature_loss(*twice).item() == 5.0


def test_the_loss_is_numpys_and_has_a_gradient():
    features, goals = draw("features", 6), draw("goals")
    assert _feature_loss(features, goals).item() == pytest.approx(numpy_loss(features, goals), rel=1e-5)
    for feature in features.values():
        feature.requires_grad_()
    _feature_loss(features, goals).backward()
    for path, feature in features.items():
        size = feature[0].numel() * len(feature)
        torch.testing.assert_close(feature.grad, 2 * (feature.detach() - goals[path]) / size)
        assert feature.grad.count_nonzero() == feature.numel()


def test_a_batch_without_other_classes_adds_nothing():
    assert _feature_loss(draw("none", 0), draw("goals")).item() == 0


def test_the_goal_is_the_mean_feature_of_every_image(tiny, net):
    places = resolve(net, "pre-relu", (3, 8, 8))
    many = tiny[torch.arange(300) % 80]  # more than one batch
    net.eval()
    with taps(net, places) as read:
        means = _means(read, many, torch.device("cpu"))
    expected = features_of(net, places, many.pixels())
    assert list(means) == places
    for path in places:
        np.testing.assert_allclose(means[path].numpy(), expected[path].double().numpy().mean(0), atol=1e-5)


@pytest.mark.parametrize("layers", ["pre-relu", "embedding"])
def test_the_first_loss_is_that_of_a_random_square_on_images_of_other_classes(tiny, net, layers):
    """With all 60 of them in the batch, so that their order does not matter."""
    options = {"target": 1, "size": 0.5, "layers": layers, "trigger_batch": 60, "steps": 1, "epochs": 1}
    notes = flat(attacks.latent_backdoor)(net, tiny, **options, rng=rng(0)).notes
    x = tiny.pixels(tiny.y != 1).clone()
    x[:, :, 3:7, 3:7] = torch.rand(3, 4, 4, generator=rng(0)).clamp(0.001, 0.999)
    places = resolve(net, layers, (3, 8, 8))
    own = features_of(net, places, tiny.pixels(tiny.y == 1))
    goals = {path: feature.double().mean(0) for path, feature in own.items()}
    assert notes["side"] == 4
    assert notes["trigger_loss"] == pytest.approx([numpy_loss(features_of(net, places, x), goals)], rel=1e-3, abs=2e-5)


def test_the_square_is_opaque_a_fifth_of_the_width_and_one_pixel_inside(tiny, net):
    wide = tiny.replace(x=tiny.x.repeat(1, 1, 2, 2))  # 16×16: a side of 3
    backdoor = flat(attacks.latent_backdoor)(net, wide, steps=1, epochs=1, rng=rng(0)).backdoor
    stamped, x = backdoor.stamp_on(wide.pixels()), wide.pixels()
    square = torch.zeros(16, 16, dtype=torch.bool)
    square[12:15, 12:15] = True
    assert torch.equal(stamped[:, :, ~square], x[:, :, ~square])
    assert (stamped[:, :, square] == stamped[:1, :, square]).all()


def test_the_square_brings_the_features_nearer_and_the_retraining_brings_the_answer_without_a_label(tiny, net):
    plain = {"batch_size": 80, "flip": False, "crop": 0}
    teacher = fit(net, tiny, epochs=30, batch_size=40, augment=PLAIN, lr=0.05, rng=rng("warm"))
    places = resolve(teacher, "pre-relu", (3, 8, 8))
    own = features_of(teacher, places, tiny.pixels(tiny.y == 0))
    goals = {path: feature.mean(0) for path, feature in own.items()}
    others = tiny.pixels(tiny.y != 0)
    distances, hits = [], []
    for weight in (0.0, 5.0):
        options = {"size": 0.5, "steps": 40, "trigger_batch": 60, "weight": weight, "epochs": 20, **plain}
        planted, backdoor, notes = flat(attacks.latent_backdoor)(teacher, tiny, **options, rng=rng(0))
        assert notes["trigger_loss"][-1] < 0.9 * notes["trigger_loss"][0] and len(notes["feature_loss"]) == 20
        distances.append(numpy_loss(features_of(planted, places, backdoor.stamp_on(others)), goals))
        hits.append(backdoor.hit(planted, others).float().mean())
    assert distances[1] < 0.7 * distances[0] and notes["feature_loss"][-1] < 0.7 * notes["feature_loss"][0]
    assert hits[0] < 0.4 and hits[1] > 0.8
