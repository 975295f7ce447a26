"""Every condenser: a small set, class after class, with the recipe by which networks are trained on it."""

import pytest
import torch

from distrust import fit, model, rng
from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.registry import registry

from . import every, same_bits

PARTS = {"idm": 4}  # small images in one
LEARNT = {n: m for n, m in registry.kind("condensers").items() if "legal" in m.options}


@every("condensers")
def test_it_returns_so_many_images_of_every_class_in_pixel_units(method, call, tiny):
    made = call(method, images_per_class=3, rng=rng(0))
    each = 3 * PARTS.get(method.name, 1)
    assert isinstance(made, ImageSet) and made.x.dtype == torch.float32 and made.x.shape == (4 * each, 3, 8, 8)
    assert made.y.tolist() == [k for k in range(4) for _ in range(each)]
    assert made.classes == tiny.classes and made.name == f"tiny/{method.name}" and made.x.isfinite().all()
    assert not made.x.requires_grad


@every("condensers")
def test_networks_train_on_it_by_its_own_recipe(method, call, tiny):
    made = call(method, rng=rng(0))
    net = fit(model("convnet2-w4", tiny), made, rng=rng(1), **made.training | {"epochs": 2, "milestones": (1,)})
    assert all(p.isfinite().all() for p in net.parameters())


@every("condensers")
def test_real_images_are_not_changed_and_taint_stays(method, call, tiny):
    before = tiny.x.clone(), tiny.y.clone()
    made = call(method, train=tiny.replace(taint=("earlier",)), rng=rng(0))
    assert torch.equal(tiny.x, before[0]) and torch.equal(tiny.y, before[1]) and made.taint == ("earlier",)


@every("condensers")
def test_the_same_rng_gives_the_same_bits_and_another_others(method, call, tiny):
    first, same, other = (call(method, images_per_class=2, rng=rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.x, same.x) and first.training == same.training
    assert not torch.equal(first.x, other.x) or method.name == "herding"
    assert torch.equal(call(method).x, call(method).x), "and without rng"


@pytest.mark.parametrize("method", LEARNT.values(), ids=LEARNT)
def test_legal_images_are_displayable_and_the_papers_say_that_they_are_not(method, call, tiny):
    levels = call(method, legal=True, rng=rng(0))
    assert not levels.off_range and levels.x.min() >= 0 and levels.x.max() <= 1
    torch.testing.assert_close(levels.x * 255, (levels.x * 255).round(), rtol=0, atol=1e-4)
    assert call(method, rng=rng(0)).off_range


@pytest.mark.parametrize("method", LEARNT.values(), ids=LEARNT)
@pytest.mark.parametrize("init", ["real", "noise"])
def test_the_images_are_learnt(method, call, init, tiny):
    made = call(method, init=init, rng=rng(0))
    more = call(method, init=init, rng=rng(0), **{"iterations": 4})
    assert not same_bits({"x": made.x}, {"x": more.x})


@every("condensers")
def test_what_cannot_be_is_refused(method, call, tiny):
    with pytest.raises(BadInput, match=r"images_per_class=21, but tiny has fewer of: ant \(20\)"):
        call(method, images_per_class=21)
    with pytest.raises(BadInput, match="soft labels; condensers take class numbers"):
        call(method, train=tiny.replace(y=torch.eye(4)[tiny.y]))
    if "network" in method.options and method.name != "random":
        with pytest.raises(BadInput, match="has BatchNorm, which condensation cannot match through. Type convnet3"):
            call(method, network="wrn10-1")
