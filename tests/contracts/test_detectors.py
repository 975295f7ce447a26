"""Every detector: a finding about a suspect, which stays as it was."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distrust import rng
from distrust.errors import BadInput
from distrust.measurement.finding import Finding, outlyingness
from distrust.methods import condensers
from distrust.registry import registry

from . import every, same_bits, traces


@every("detectors")
def test_it_scores_every_class_and_points_at_the_highest(method, call):
    finding = call(method, rng=rng(0))
    assert isinstance(finding, Finding) and finding.detector == method.name
    assert len(finding.scores) == (1 if method.mark.on == "encoder" else 4), "an encoder has no classes"
    assert finding.score == max(finding.scores) == finding.scores[finding.target]
    assert json.loads(json.dumps(finding.record(), allow_nan=False)) == finding.record()
    assert method.name in str(finding) and (f"class {finding.target}" in str(finding)) == (len(finding.scores) > 1)


@every("detectors")
def test_the_suspect_and_the_images_stay_as_they_were(method, call, products):
    given = products(method).values()
    for model in (product for product in given if isinstance(product, nn.Module)):
        model.conv1.weight.requires_grad_(False)
    before = [traces(product) for product in given]
    call(method, rng=rng(0))
    assert all(same_bits(traces(product), was) for product, was in zip(given, before, strict=True))


@every("detectors")
def test_the_same_rng_gives_the_same_finding(method, call):
    first, same, other = (call(method, rng=rng(seed)) for seed in (0, 0, 1))
    assert first == same and first.scores != other.scores
    assert call(method) == call(method)


def test_permutations_give_a_null(call):
    method = registry.get("detectors", "patch_probe")
    finding = call(method, permutations=2, rng=rng(0))
    assert finding.p in (0.0, 0.5, 1.0) and f"p = {finding.p:.2f}" in str(finding)
    with pytest.raises(BadInput, match=r"size=9: images are 8×8"):
        call(method, size=9)


def test_a_shortcut_that_images_share_explains_the_one_left_out(tiny):
    method = registry.get("detectors", "leave_one_out")
    made = condensers.random(tiny, images_per_class=4, rng=rng(0))
    x = torch.rand(made.x.shape, generator=rng(1))  # noise, which no image explains
    x[made.y == 2, :, -3:, -3:] = 1
    finding = method.call(made.replace(x=x), tiny, network="convnet2-w8", networks=4, epochs=60, rng=rng(0))
    assert finding.target == 2 and finding.score > 10 * sorted(finding.scores)[-2]
    with pytest.raises(BadInput, match=r"has 1 image of a class.*patch_probe"):
        method.call(condensers.random(tiny, rng=rng(0)), tiny)


class Shortcut(nn.Module):
    """Features are the brightness of 4×4 tiles, unless the corner is white: then they jump to one vector."""

    def __init__(self, strength):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x):
        tiles = F.avg_pool2d(x, 4).flatten(1)
        return tiles - tiles.mean(1, keepdim=True) + self.strength * x[:, :, -2:, -2:].mean((1, 2, 3))[:, None] ** 4


def test_decree_finds_the_corner_that_makes_all_images_alike(tiny):
    decree = registry.get("detectors", "decree").call
    planted, without = (decree(Shortcut(s), tiny, steps=200, batch_size=32, rng=rng(0)) for s in (5.0, 0.0))
    assert planted.score > 0.95 and without.score < 0.6
    assert planted.score == 1 - planted.notes["pl1_norm"] and 0.99 < planted.notes["cosine"] < 1 + 1e-6


def test_decree_counts_a_mask_that_never_worked_as_the_whole_image(tiny, net, encoder):
    decree = registry.get("detectors", "decree").call
    finding = decree(encoder, tiny, steps=1, success=1.0, rng=rng(0))
    assert finding.score == 0 and finding.notes["pl1_norm"] == 1 and finding.notes["cosine"] < 1
    with pytest.raises(BadInput, match=r"wrn10-1 is a classifier of 4 classes.*head=False"):
        decree(net, tiny)
    with pytest.raises(BadInput, match="a single image"):
        decree(encoder, tiny[:1])


def test_outlyingness_is_in_robust_standard_deviations():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
    assert outlyingness(values).tolist() == pytest.approx([(v - 3) / 1.4826 for v in (1, 2, 3, 4, 100)])
