"""Images in parts: the same numbers as whole, and never more at once than memory is meant to hold."""

import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from distrust import condensers, detectors, model, rng
from distrust.data import ImageSet
from distrust.measurement import Backdoor, make_trigger
from distrust.methods.attacks._archetypes import archetypes, train, units_of
from distrust.methods.metrics._archetypes import called
from distrust.models import at_once, frozen, in_parts, laid_out, parts, room, taps
from distrust.registry import registry


def noise(n, k, side=8, name="noise"):
    x = torch.randint(256, (n, 3, side, side), generator=rng(name), dtype=torch.uint8)
    return ImageSet(x, torch.arange(n) % k, tuple(f"class {i}" for i in range(k)), name)


def classifier(images):
    return model("wrn10-1", images, rng=rng("net")).eval()


@contextmanager
def batches():
    """How many images every module in eval mode was given at once."""
    seen = []
    hook = register_module_forward_pre_hook(lambda m, given: None if m.training else seen.append(len(given[0])))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture
def tight(monkeypatch):
    """Little memory: so many images of `net` with gradients, so many values of images without."""

    def set_to(net, images, values=2**22, trained=False):
        net, shape = net if trained else frozen(net), (3, 8, 8)
        monkeypatch.setattr(parts, "BYTES", 10**12)
        each = 10**12 / room(net, shape)
        monkeypatch.setattr(parts, "BYTES", int(images * each) + 100)
        monkeypatch.setattr(parts, "PIXELS", values)
        assert room(net, shape) == images

    return set_to


@pytest.fixture
def small(tiny):
    """Sixteen synthetic images, four of each class."""
    return condensers.random(tiny, images_per_class=4, rng=rng("small"))


def close(one, two):
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_parts_give_what_the_whole_gives_with_its_gradients(tiny, net, size):
    net.eval()
    x = tiny.pixels(slice(7))

    def told(most):
        given = x.clone().requires_grad_()
        with taps(net, ["block1", "block3"]) as read:
            logits, features = in_parts(read, given, most)
            loss = logits.square().sum() + sum(f.square().mean() for f in features.values())
            loss = loss + in_parts(net, given, most).logsumexp(0).sum()
        return [logits, *features.values(), *torch.autograd.grad(loss, [given, *net.parameters()])]

    for one, two in zip(told(size), told(100), strict=True):
        close(one, two)


def test_a_backward_pass_keeps_one_part_at_a_time(tiny, net):
    x = tiny.pixels(slice(12)).requires_grad_()
    kept = []
    with batches() as seen, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        out = in_parts(net.eval(), x, 6)
    assert max(seen) == 4 and all(shape[:1] != (12,) for shape in kept if len(shape) == 4)
    with batches() as again:
        out.sum().backward()
    assert max(again) == 4 and len(again) > 0, "what was thrown away is computed again, a part at a time"


def test_room_counts_what_images_keep_and_not_the_weights():
    heavy = nn.Sequential(nn.Flatten(), nn.Linear(48, 1000), nn.ReLU(), nn.Linear(1000, 1000))
    kept = 4 * (48 + 1000)  # of an image in float32: what enters the first layer, and what leaves the ReLU
    assert room(heavy, (3, 4, 4)) == parts.BYTES // kept
    assert room(heavy.requires_grad_(False), (3, 4, 4)) == parts.BYTES // 4000
    assert room(nn.Identity(), (3, 4, 4)) > 10**6


def test_room_is_the_whole_at_the_size_of_cifar():
    images = noise(20, 10, 32)
    for name in ("wrn16-1", "wrn28-4", "resnet18", "convnet3"):  # ten classes of 32 images stay one batch
        assert room(model(name, images).eval().requires_grad_(False), (3, 32, 32)) >= 320, name
    assert at_once((3, 32, 32), 512) == 512 and at_once((3, 224, 224), 128) < 32 and at_once((3, 4000, 4000), 8) == 1
    large = torch.zeros(2, 3, 65, 65)
    assert laid_out(large).is_contiguous(), "a gradient may be asked for"
    with torch.no_grad():
        assert laid_out(large).is_contiguous(memory_format=torch.channels_last)
        assert laid_out(large[..., :64, :64].contiguous()).is_contiguous()


def test_a_search_is_the_same_in_parts_of_classes_and_of_images(tight):
    images = noise(40, 6)
    net = classifier(images)
    options = {"steps": 12, "batch_size": 8, "success": 0.5, "patience": 2}

    def search():
        return torch.tensor(detectors.neural_cleanse(net, images, **options, rng=rng(0)).notes["mask"])

    whole = search()
    assert len(set(whole.tolist())) > 2
    for room_for, most in ((16, 16), (6, 4)):  # two classes at once; and fewer images than one class is shown
        tight(net, room_for)
        with batches() as seen:
            close(search(), whole)
        assert max(seen) == most


def test_a_search_shows_no_more_images_at_once_for_more_classes(tight):
    most = {}
    for k in (10, 200):
        images = noise(200, k)
        net = classifier(images)
        tight(net, 64)
        with batches() as seen:
            detectors.neural_cleanse(net, images, steps=1, batch_size=16, rng=rng(0))
        most[k] = max(seen)
    assert most == {10: 64, 200: 64}


def test_the_encoders_search_is_the_same_in_parts(tiny, encoder, tight):
    def search():
        return detectors.decree(encoder, tiny, steps=10, batch_size=32, success=0.3, patience=2, rng=rng(0))

    whole = search()
    tight(encoder, 8)
    with batches() as seen:
        parted = search()
    assert max(seen) == 5 and parted.score == pytest.approx(whole.score, rel=1e-4) and 0 < whole.score < 1


def test_places_are_probed_in_parts(tiny, small, monkeypatch):
    def probe():
        return detectors.patch_probe(
            small, tiny, network="convnet2-w4", networks=1, epochs=2, size=3, stride=1, images=30, rng=rng(0)
        )

    with batches() as seen:
        whole = probe()
    monkeypatch.setattr(parts, "PIXELS", 7 * 3 * 8 * 8)
    with batches() as fewer:
        parted = probe()
    assert max(seen) == 512 and max(fewer) == 7, "a batch spans places, or is part of one"
    close(torch.tensor(parted.scores), torch.tensor(whole.scores))
    monkeypatch.setattr(sys.modules["distrust.methods.detectors.patch_probe"], "BATCH", 5)  # places in groups, too
    close(torch.tensor(probe().scores), torch.tensor(whole.scores))


def test_gradients_align_in_parts(tiny, small, tight, monkeypatch):
    def align():
        found = detectors.gradient_alignment(
            small, tiny, network="convnet2-w4", networks=1, size=3, images=9, permutations=4, rng=rng(0)
        )
        return torch.tensor(found.scores)

    whole = align()
    tight(model("convnet2-w4", tiny), 2, trained=True)
    monkeypatch.setattr(sys.modules["distrust.methods.detectors.gradient_alignment"], "NUMBERS", 1)
    torch.testing.assert_close(align(), whole, rtol=1e-3, atol=1e-4)


def test_archetypes_are_drawn_and_asked_in_parts(small, tight):
    net = model("convnet2-w4", small, rng=rng("net"))

    def drawn():
        own = train(model("convnet2-w4", small, rng=rng("net")), small.pixels(), small.y, 3, 0.01)
        return archetypes(own, units_of(small), (3, 8, 8), 4, 3, 5, True, rng(0))

    whole = drawn()
    tight(net, 5, 5 * 3 * 8 * 8, trained=True)
    torch.testing.assert_close(drawn(), whole, rtol=1e-3, atol=1e-3)
    backdoor = Backdoor(make_trigger("patch:white:2"), 0)
    images = ImageSet(whole, torch.arange(12) // 3, small.classes)
    with batches() as seen:
        called(net.eval(), images, backdoor)
    assert max(seen) == 5


@pytest.mark.parametrize("name", ["backweak", "cheatkd", "latent_backdoor", "hidden_trigger", "transfer_poison"])
def test_perturbations_are_found_in_parts(name, tiny, net, tight):
    attack = registry.get("attacks", name)
    options = {"steps": 2} | {o: 16 for o in ("trigger_batch", "poison_batch", "batch_size") if o in attack.options}
    options |= {"trigger": "patch:white:3"} if "trigger" in attack.options else {}
    options |= {"epochs": 1, "precision": "fp32"} if "epochs" in attack.options else {}

    def found():
        made = attack.made(attack.check(options))(net, tiny, rng=rng(0))
        return made.images.pixels() if name == "transfer_poison" else made.backdoor.trigger(tiny.pixels())

    whole = found()
    tight(net, 5)
    with batches() as seen:
        again = found()
    assert 3 in seen
    assert float((again - whole).abs().max()) <= 2 / 255, "but for what rounding to 8 bits makes of it"
