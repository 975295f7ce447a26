"""CheatKD's neurons, δ and loss, against NumPy float64.

Source: Chen et al., Computer Science 51(3), 2024: x* = (1 − M)⊙x + M⊙P; the poisoned neuron of a layer has the largest
mean activation; L = Σ (I − δ)² over the poisoned neurons of all poisoned layers; Table 6 for the other δ.
"""

import numpy as np
import pytest
import torch
from tests.contracts import flat
from torch import nn

from distrust import rng
from distrust.errors import BadInput
from distrust.methods import attacks
from distrust.methods.attacks._neurons import delta_of, strongest
from distrust.methods.attacks._teacher import forever
from distrust.models import resolve, taps
from distrust.seeds import spawn

ONCE = {"steps": 1, "epochs": 1, "trigger_batch": 80}


def start(tiny, opacity: float = 0.2, seed: int = 0):
    """The pattern, mask and first batch that an attack with this seed starts from."""
    source = rng(seed)
    pattern = torch.rand(3, 8, 8, generator=source)
    mask = torch.rand(1, 8, 8, generator=source).clamp(max=opacity)
    return pattern, mask, next(forever(tiny, 80, spawn(source)))[0]


def features_of(net, x, layers="pre-relu") -> dict[str, np.ndarray]:
    net.eval()
    places = resolve(net, layers, (3, 8, 8))
    with taps(net, places) as read, torch.no_grad():
        return {path: f.double().numpy() for path, f in read(x).features.items()}


def numpy_terms(features, neurons=1, delta=None, gain=1.0, rows=slice(None)) -> list[float]:
    """Each layer's loss: neurons by mean over batch and positions, δ the largest of these means unless given."""
    terms = []
    for f in features.values():
        chosen = np.argsort(-f.mean((0, 2, 3)), kind="stable")[:neurons]
        goal = f.mean((0, 2, 3)).max() if delta is None else delta(f[rows][:, chosen])
        terms.append(sum(((f[rows][:, c] - gain * goal) ** 2).mean() for c in chosen))
    return terms


# --- neurons and δ -----------------------------------------------------------------------------------------


def test_the_neuron_has_the_largest_mean_and_of_equals_the_lowest_number():
    means = torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0])
    feature = means[None, :, None, None].expand(2, 5, 2, 2)
    assert strongest("layer", feature, 1).tolist() == [1]
    assert strongest("layer", feature, 3).tolist() == [1, 3, 4]
    assert strongest("layer", feature, 5).tolist() == [1, 3, 4, 2, 0]
    spike = torch.zeros(2, 2, 2, 2)
    spike[0, 0, 0, 0], spike[:, 1] = 3.0, 1.0
    assert strongest("layer", spike, 1).tolist() == [1], "the mean decides, not the largest activation"


def test_a_layer_without_positions_and_too_many_neurons_are_refused():
    with pytest.raises(BadInput, match="'fc' is no feature map"):
        strongest("fc", torch.zeros(2, 5), 1)
    with pytest.raises(BadInput, match="neurons=6, but layer 'layer' has 5 channels"):
        strongest("layer", torch.zeros(2, 5, 2, 2), 6)


DELTAS = {
    "max": lambda own: own.max(),
    "min": lambda own: own.min(),
    "(max+min)/2": lambda own: (own.max() + own.min()) / 2,
    "(max+min)/4": lambda own: (own.max() + own.min()) / 4,
}


@pytest.mark.parametrize("kind", ["mean", *DELTAS])
def test_each_delta_is_numpys_and_a_constant(kind):
    feature = torch.randn(4, 6, 3, 3, generator=rng("feature")).requires_grad_()
    chosen = torch.tensor([2, 5])
    f = feature.detach().double().numpy()
    expected = f.mean((0, 2, 3)).max() if kind == "mean" else DELTAS[kind](f[:, [2, 5]])
    found = delta_of(feature, chosen, kind)
    assert found.item() == pytest.approx(expected, rel=1e-5) and not found.requires_grad


# --- the loss, on the first batch --------------------------------------------------------------------------


def first_loss(net, tiny, **options) -> dict:
    return flat(attacks.cheatkd)(net, tiny, **ONCE | options, rng=rng(0)).notes


def close(expected: float):
    return pytest.approx([expected], rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("neurons", [1, 3])
def test_the_loss_sums_neurons_and_layers_over_the_whole_batch(tiny, net, neurons):
    pattern, mask, x = start(tiny)
    features = features_of(net, (1 - mask) * x + mask * pattern)
    notes = first_loss(net, tiny, neurons=neurons)
    assert notes["loss"] == close(sum(numpy_terms(features, neurons)))
    for path, f in features.items():
        assert notes["neurons"][path] == np.argsort(-f.mean((0, 2, 3)), kind="stable")[:neurons].tolist()
        assert notes["delta"][path] == pytest.approx(f.mean((0, 2, 3)).max(), abs=1e-5)


@pytest.mark.parametrize("kind", DELTAS)
def test_the_loss_pulls_towards_the_delta_asked(tiny, net, kind):
    pattern, mask, x = start(tiny)
    features = features_of(net, (1 - mask) * x + mask * pattern)
    assert first_loss(net, tiny, delta=kind)["loss"] == close(sum(numpy_terms(features, delta=DELTAS[kind])))


def test_gain_first_image_last_layer_opacity_and_layers_are_what_they_say(tiny, net):
    pattern, mask, x = start(tiny)
    stamped = (1 - mask) * x + mask * pattern
    features = features_of(net, stamped)
    assert first_loss(net, tiny, gain=2.0)["loss"] == close(sum(numpy_terms(features, gain=2.0)))
    assert first_loss(net, tiny, last_layer=True)["loss"] == close(numpy_terms(features)[-1])
    first = numpy_terms(features, rows=slice(0, 1))  # of it the loss; neuron and mean δ are the batch's
    assert first_loss(net, tiny, first_image=True)["loss"] == close(sum(first))
    lowest = sum(numpy_terms(features, delta=DELTAS["min"], rows=slice(0, 1)))  # an extreme δ is its own
    assert first_loss(net, tiny, first_image=True, delta="min")["loss"] == close(lowest)
    assert first_loss(net, tiny, first_image=True, last_layer=True)["loss"] == close(first[-1])
    one = features_of(net, stamped, ["block2"])
    assert first_loss(net, tiny, layers=["block2"])["loss"] == close(sum(numpy_terms(one)))
    pattern, mask, x = start(tiny, opacity=0.7)
    features = features_of(net, (1 - mask) * x + mask * pattern)
    assert first_loss(net, tiny, opacity=0.7)["loss"] == close(sum(numpy_terms(features)))


def test_the_neurons_stay_and_delta_moves_only_if_asked(tiny, net):
    options = {"steps": 4, "trigger_lr": 0.1}
    one, still, moving = (first_loss(net, tiny, **o) for o in ({}, options, options | {"moving": True}))
    assert one["neurons"] == still["neurons"] == moving["neurons"]
    assert one["delta"] == still["delta"] != moving["delta"]
    assert still["loss"][0] == moving["loss"][0] == one["loss"][0]
    assert still["loss"][-1] < still["loss"][0]


# --- the trigger -------------------------------------------------------------------------------------------


def trigger_of(net, tiny, **options) -> tuple[torch.Tensor, torch.Tensor]:
    trigger = flat(attacks.cheatkd)(net, tiny, **ONCE | options, rng=rng(0)).backdoor.trigger
    return trigger.pixels, trigger.mask


def test_the_mask_moves_within_its_bound_or_stays_at_its_start(tiny, net):
    _, begin, _ = start(tiny, 0.3)
    options = {"opacity": 0.3, "steps": 5, "trigger_lr": 0.1}
    _, moved = trigger_of(net, tiny, **options)
    _, frozen = trigger_of(net, tiny, **options, train_mask=False)
    assert torch.equal(frozen, begin)
    assert not torch.equal(moved, begin) and moved.min() >= 0 and moved.max() <= 0.3 + 1e-7


def test_without_a_step_pattern_and_mask_stay_random(tiny, net):
    begin = start(tiny)
    planted = flat(attacks.cheatkd)(net, tiny, **ONCE | {"steps": 0}, rng=rng(0))
    trigger = planted.backdoor.trigger
    assert torch.equal(trigger.pixels, begin[0]) and torch.equal(trigger.mask, begin[1])
    assert planted.notes == {"neurons": {}, "delta": {}, "loss": []}


def steps_of(begin: torch.Tensor) -> torch.Tensor:
    """Adam's first step is its rate, here 0.5, up or down: both places a value may be at [2,C,H,W]."""
    return torch.stack([begin + 0.5, begin - 0.5])


def test_the_pattern_is_clamped_or_wraps_round_at_8_bits(tiny, net):
    begin, _, _ = start(tiny)
    clamped, _ = trigger_of(net, tiny, trigger_lr=0.5)
    wrapped, _ = trigger_of(net, tiny, trigger_lr=0.5, wrap=True)
    for found, candidates in [
        (clamped, steps_of(begin).clamp(0, 1)),
        (wrapped, torch.trunc(steps_of(begin) * 255).remainder(256) / 255),
    ]:
        distance = (found - candidates).abs().amin(0)
        assert (distance < 1.5 / 255).float().mean() > 0.95
        assert found.min() >= 0 and found.max() <= 1
    assert ((clamped == 0) | (clamped == 1)).any() and not ((wrapped == 0) | (wrapped == 1)).all()
    levels = wrapped * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_normalised_means_that_pattern_and_images_meet_behind_the_models_first_layer(tiny, net):
    pattern, mask, x = start(tiny)
    mean, std = net.normalize.mean[0], net.normalize.std[0]
    normal = ((1 - mask) * (x - mean) / std + mask * pattern) * std + mean  # blended behind it, seen before it
    notes = first_loss(net, tiny, blend_in="normalised", trigger_lr=1e-9)
    assert notes["loss"] == close(sum(numpy_terms(features_of(net, normal))))
    pixels, _ = trigger_of(net, tiny, blend_in="normalised", trigger_lr=1e-9)
    torch.testing.assert_close(pixels, (mean + std * pattern).clamp(0, 1))


def test_normalised_needs_a_model_that_normalises(tiny):
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    with pytest.raises(BadInput, match="needs a model with a `normalize` layer"):
        flat(attacks.cheatkd)(bare, tiny, **ONCE, blend_in="normalised")
