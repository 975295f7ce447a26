"""Attention maps and their loss.

Source: Zagoruyko & Komodakis, arXiv 1612.03928, section 3.1, Q = vec(Σ_c |F_c|^p) / ‖·‖₂, and their released
code, which takes the mean over batch and positions of the squared difference. NAD (Li et al., arXiv
2101.05930) uses the same map; its released code weighs three layers by 500, 1000, 1000.
"""

import numpy as np
import pytest
import torch

from distrust import rng
from distrust.errors import BadInput
from distrust.flags import Flag
from distrust.methods import distillers
from distrust.methods.distillers._attention import attention_loss, attention_map
from distrust.models import Taps
from distrust.registry import registry


def features(seed: str, *shapes: tuple[int, ...], requires_grad: bool = False) -> Taps:
    draw = rng(seed)
    drawn = [torch.randn(shape, generator=draw).requires_grad_(requires_grad) for shape in shapes]
    return Taps(torch.zeros(len(drawn[0]), 3), {f"layer{i}": feature for i, feature in enumerate(drawn)})


def numpy_map(feature: torch.Tensor, p: float) -> np.ndarray:
    """One image and one pixel at a time, in float64."""
    f = feature.detach().double().numpy()
    maps = []
    for image in f:
        pixels = [image[:, i, j] for i in range(f.shape[2]) for j in range(f.shape[3])]
        energy = [sum(abs(value) ** p for value in channels) for channels in pixels]
        length = np.sqrt(sum(e * e for e in energy))
        maps.append([e / length for e in energy])
    return np.array(maps)


def numpy_gap(ours: torch.Tensor, theirs: torch.Tensor, p: float = 2.0) -> float:
    return np.mean((numpy_map(ours, p) - numpy_map(theirs, p)) ** 2)


def test_a_map_by_hand():
    feature = torch.tensor([[[[1.0, -2.0]], [[-1.0, 1.0]]]])  # two channels, 1×2 pixels: energies 2 and 5
    assert attention_map(feature, 2.0)[0].tolist() == pytest.approx([2 / 29**0.5, 5 / 29**0.5], rel=1e-6)
    assert attention_map(feature, 1.0)[0].tolist() == pytest.approx([2 / 13**0.5, 3 / 13**0.5], rel=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_a_map_is_numpys(p):
    feature = features("map", (3, 5, 4, 6)).features["layer0"]
    found = attention_map(feature, p)
    assert found.shape == (3, 24)
    np.testing.assert_allclose(found.numpy(), numpy_map(feature, p), rtol=2e-5)
    np.testing.assert_allclose(found.norm(dim=1).numpy(), 1, rtol=1e-5)


def test_a_loss_by_hand():
    ours = Taps(torch.zeros(1, 2), {"a": torch.tensor([[[[1.0, 0.0]]]])})  # map (1, 0)
    theirs = Taps(torch.zeros(1, 2), {"a": torch.tensor([[[[0.0, 7.0]]]])})  # map (0, 1)
    assert attention_loss(ours, theirs).item() == pytest.approx(1.0, rel=1e-5)  # mean of 1 and 1
    assert distillers.at(ours, theirs, None).item() == pytest.approx(1000.0, rel=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_attention_transfer_is_numpys_and_its_gradient_is_not_zero(p):
    shapes = (4, 8, 8, 8), (4, 16, 4, 4), (4, 32, 2, 2)
    ours = features("student", *shapes, requires_grad=True)
    theirs = features("teacher", *((4, 3 * c, h, w) for _, c, h, w in shapes))  # any number of channels
    loss = distillers.at(ours, theirs, None, weight=50.0, p=p)
    pairs = zip(ours.features.values(), theirs.features.values(), strict=True)
    assert loss.item() == pytest.approx(50 * sum(numpy_gap(a, b, p) for a, b in pairs), rel=1e-4)
    loss.backward()
    assert all(f.grad.isfinite().all() and f.grad.count_nonzero() for f in ours.features.values())


def test_the_gradient_is_that_of_finite_differences():
    theirs = features("teacher", (2, 3, 3, 3)).features["layer0"].double()
    ours = features("student", (2, 3, 3, 3)).features["layer0"].double().requires_grad_()
    logits = torch.zeros(2, 3, dtype=torch.float64)
    target = Taps(logits, {"a": theirs})
    assert torch.autograd.gradcheck(lambda f: attention_loss(Taps(logits, {"a": f}), target), ours)


def test_nads_loss_is_the_weighted_sum_over_layers():
    shapes = (4, 8, 8, 8), (4, 16, 4, 4), (4, 32, 2, 2)
    ours, theirs = features("student", *shapes), features("teacher", *shapes)
    weights = registry.get("defenses", "nad").check({})["beta"]
    assert weights == [500.0, 1000.0, 1000.0]
    gaps = [numpy_gap(a, b) for a, b in zip(ours.features.values(), theirs.features.values(), strict=True)]
    expected = 500 * gaps[0] + 1000 * gaps[1] + 1000 * gaps[2]
    assert attention_loss(ours, theirs, weights).item() == pytest.approx(expected, rel=1e-4)


def test_the_larger_map_is_averaged_to_the_smaller_ones_size():
    large, small = features("large", (2, 3, 8, 8)), features("small", (2, 5, 4, 4))
    blocks = large.features["layer0"].reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    expected = numpy_gap(blocks, small.features["layer0"])
    assert attention_loss(large, small).item() == pytest.approx(expected, rel=1e-4)
    assert attention_loss(small, large).item() == pytest.approx(expected, rel=1e-4)


def test_a_map_of_one_pixel_raises_a_flag_and_has_no_gradient():
    ours = features("student", (4, 8, 1, 1), requires_grad=True)
    with pytest.warns(Flag, match="^attention-dead: layer layer0 is 1×1") as caught:
        loss = distillers.at(ours, features("teacher", (4, 8, 1, 1)), None)
    assert [w.message.name for w in caught] == ["attention-dead"]
    loss.backward()
    assert ours.features["layer0"].grad.abs().max() < 1e-6


def test_a_silent_layer_gives_no_nan():
    dead = Taps(torch.zeros(2, 3), {"a": torch.zeros(2, 4, 3, 3, requires_grad=True)})
    attention_loss(dead, Taps(torch.zeros(2, 3), {"a": torch.ones(2, 4, 3, 3)})).backward()
    assert dead.features["a"].grad.isfinite().all()


def test_what_is_no_feature_map_and_a_wrong_number_of_weights_are_refused():
    with pytest.raises(BadInput, match=r"needs a feature map \[B,C,H,W\]; got \[4, 8\]"):
        attention_map(torch.zeros(4, 8))
    pair = features("a", (2, 3, 4, 4), (2, 3, 2, 2))
    with pytest.raises(BadInput, match=r"3 weights for 2 layers \(layer0, layer1\)"):
        attention_loss(pair, pair, [1.0, 1.0, 1.0])
