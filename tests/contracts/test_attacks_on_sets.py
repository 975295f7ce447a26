"""Every attack on a synthetic set (place 4): a set of the same classes, from it alone or with what it was made of."""

import pytest
import torch

from distrust import rng
from distrust.errors import BadInput
from distrust.registry import registry

from . import every, fields, same_bits

every_synthetic = every("attacks", lambda mark: mark.place == 4)


@every_synthetic
def test_it_returns_a_legal_set_of_the_same_classes_with_its_recipe(method, call, small):
    poisoned, backdoor = call(method, target=2, rng=rng(0))
    assert poisoned.classes == small.classes and poisoned.taint == (method.name,)
    assert poisoned.training == small.training and not poisoned.off_range and len(poisoned) >= len(small)
    levels = poisoned.x * 255
    assert levels.min() >= 0 and levels.max() <= 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert not torch.equal(poisoned.x[: len(small)], small.x) or len(poisoned) > len(small)
    assert (backdoor.target, backdoor.name, backdoor.as_published) == (2, method.name, False)
    assert len(poisoned.index) == len(poisoned)


@every_synthetic
def test_the_set_stays_as_it_was_and_an_earlier_taint_is_kept(method, call, small):
    before = fields(small)
    tainted = call(method, synthetic=small.replace(taint=("earlier",)), rng=rng(0)).images
    assert same_bits(fields(small), before) and tainted.taint == ("earlier", method.name)


@every_synthetic
def test_the_same_rng_gives_the_same_set_and_another_another(method, call, small):
    half = {"rate": 0.5} if "rate" in method.options else {}
    first, same = (call(method, rng=rng(0), **half).images for _ in range(2))
    others = [call(method, rng=rng(seed), **half).images for seed in range(1, 12)]
    assert same_bits(fields(first), fields(same))
    assert any(not torch.equal(first.x, other.x) for other in others)
    assert same_bits(fields(call(method).images), fields(call(method).images)), "and without rng"


@every_synthetic
def test_soft_labels_stay_soft(method, call, small):
    soft = small.replace(y=torch.eye(4)[small.y] * 0.8 + 0.05)
    poisoned = call(method, synthetic=soft, target=1, rng=rng(0)).images
    assert poisoned.y.dtype == torch.float32 and poisoned.y.shape == (len(poisoned), 4)
    torch.testing.assert_close(poisoned.y.sum(1), torch.ones(len(poisoned)))


@every_synthetic
def test_what_a_synthetic_set_lacks_is_refused(method, call, small):
    with pytest.raises(BadInput, match=r"no class; tiny/random has 4 classes"):
        call(method, target=4)
    with pytest.raises(BadInput, match="does not fit"):
        call(method, **({"trigger": "patch:white:9"} if "trigger" in method.options else {"size": 9}))
    if "network" in method.options:
        with pytest.raises(BadInput, match="network wrn10-1 has BatchNorm"):
            call(method, network="wrn10-1")


def test_doorping_learns_a_louder_trigger_and_refuses_a_set_of_other_images(call, small):
    doorping = registry.get("attacks", "doorping")
    poisoned, backdoor = call(doorping, size=3, trigger_steps=20, rng=rng(0))
    start = call(doorping, size=3, trigger_steps=1, iterations=1, rng=rng(0)).backdoor
    assert backdoor.trigger.pixels.shape == (3, 3, 3)
    assert not torch.equal(backdoor.trigger.pixels, start.trigger.pixels)
    untouched, _ = call(doorping, rate=0.0)
    assert same_bits(fields(untouched), fields(small))
    order = torch.randperm(len(small), generator=rng(3))
    mixed = call(doorping, synthetic=small[order], rng=rng(0)).images
    assert torch.equal(mixed.y, small.y[order]), "a class's images stand where its labels stand"
    with pytest.raises(BadInput, match="not 1 images of every class"):
        call(doorping, synthetic=small[:7])
