"""Encoders: models without a head, the views and losses they learn from, and the heads that are put on them."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
import torch
from tests.contracts import same_bits, state
from tests.test_models import EVERY, pictures
from torch import nn
from torch.nn import functional as F

import distrust as dt
from distrust import rng
from distrust.data import ImageSet, Views
from distrust.errors import BadInput, NotFound
from distrust.flags import Flag
from distrust.measurement import predict
from distrust.methods import heads
from distrust.methods import objectives as encoders
from distrust.methods.objectives._contrast import nt_xent
from distrust.models import check_encoder, eval_mode, layers, model, resolve
from distrust.models.heads import make
from distrust.training import features, typical
from distrust.training.pretrain import pretrain, seen

STILL = {"scale": (1.0, 1.0), "flip": False, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "grey": 0}
FAST = {"epochs": 1, "batch_size": 40, "precision": "fp32", "memory_format": "contiguous"}


@pytest.fixture
def x():
    """Eight images 3×12×12 between 0.3 and 0.6, which no single change clamps."""
    return 0.3 + 0.3 * torch.rand(8, 3, 12, 12, generator=rng("x"))


# --- views ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_views_are_images_of_the_same_size_and_repeat(channels):
    x = torch.randint(256, (16, channels, 12, 10), generator=rng("raw"), dtype=torch.uint8)
    before, state_before = x.clone(), torch.get_rng_state()
    wild = Views(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5)
    first, same, other, of_floats = (
        wild(images, rng(seed)) for images, seed in ((x, 0), (x, 0), (x, 1), (x.float() / 255, 0))
    )
    assert first.dtype == torch.float32 and first.shape == x.shape
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(first, of_floats), "uint8 and float are the same images"
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state_before)


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_views_that_change_nothing(x, jitter):
    calm = Views(**STILL, jitter=jitter)
    torch.testing.assert_close(calm(x, rng(0)), x, rtol=0, atol=1e-4)
    torch.testing.assert_close(calm(x[:, :1], rng(0)), x[:, :1], rtol=0, atol=1e-4)
    loud = Views(scale=(1.0, 1.0), flip=False, brightness=0.9, contrast=0.9, hue=0.5, jitter=0.0, grey=0.0)
    torch.testing.assert_close(loud(x, rng(0)), x, rtol=0, atol=1e-4)  # jitter=0 keeps all colours


def test_flip_mirrors_half_of_the_images(x):
    x = x.repeat(50, 1, 1, 1)
    flipped = Views(**STILL | {"flip": True}, jitter=0)(x, rng(0))
    mirrored = (flipped - x.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    kept = (flipped - x).abs().amax((1, 2, 3)) < 1e-4
    assert bool((mirrored ^ kept).all()) and 160 < mirrored.sum() < 240


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.9, 1.0), (0.3, 0.3)])
def test_a_crop_keeps_the_share_that_was_asked_for_and_no_other_ratio_than_three_to_four(scale):
    ramp = torch.linspace(0.005, 0.995, 100)
    ramps = torch.stack([ramp.expand(100, 100), ramp[:, None].expand(100, 100)]).repeat(200, 1, 1, 1)
    seen = Views(scale=scale, flip=False, jitter=0)(ramps, rng(0))
    width = (seen[:, 0, :, -1] - seen[:, 0, :, 0]).mean(1) / 0.99  # of the crop, as a share of the image
    height = (seen[:, 1, -1] - seen[:, 1, 0]).mean(1) / 0.99
    area, ratio = width * height, width / height
    assert area.min() > scale[0] - 0.03 and area.max() < scale[1] + 0.01
    assert ratio.min() > 0.73 and ratio.max() < 1.37
    assert scale[0] == scale[1] or area.max() - area.min() > 0.7 * (scale[1] - scale[0])


GREY = np.array([0.299, 0.587, 0.114])
YIQ = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])  # of NTSC, 1953


def brighter(image, factor):
    return factor * image


def contrasted(image, factor):
    mean = np.mean([pixel @ GREY for pixel in image.reshape(3, -1).T])
    return mean + factor * (image - mean)


def saturated(image, factor):
    grey = np.stack([np.tensordot(GREY, image, 1)] * 3)
    return grey + factor * (image - grey)


def turned(image, angle):
    y, i, q = np.tensordot(YIQ, image, 1)
    colour = (i + 1j * q) * np.exp(1j * angle)
    return np.tensordot(np.linalg.inv(YIQ), np.stack([y, colour.real, colour.imag]), 1)


CHANGES = {"brightness": brighter, "contrast": contrasted, "saturation": saturated, "hue": turned}


def strength(kind, before, after):
    """The factor, or angle, that makes `after` of `before`: least squares, with nothing left over."""
    if kind == "hue":
        (_, i, q), (_, j, r) = (np.tensordot(YIQ, image, 1) for image in (before, after))
        return float(np.angle(np.sum((j + 1j * r) * np.conj(i + 1j * q))))
    zero = CHANGES[kind](before, 0.0)
    return float(np.sum((after - zero) * (before - zero)) / np.sum((before - zero) ** 2))


def test_every_change_of_colour_is_the_plain_one(x):
    most = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.5, "hue": 0.2}
    found = {kind: [] for kind in most}
    for kind, limit in most.items():
        after = Views(**STILL | {kind: limit}, jitter=1)(x, rng(0)).double().numpy()
        for one, other in zip(x.double().numpy(), after, strict=True):
            value = strength(kind, one, other)
            assert np.abs(CHANGES[kind](one, value) - other).max() < 1e-5
            assert abs(value) <= 2 * math.pi * limit if kind == "hue" else abs(value - 1) <= limit
            found[kind].append(value)
        assert np.std(found[kind]) > 0.2 * limit, "every image has its own"
    gentle = 0.7 * x + 0.15  # all four together still stay within 0..1
    together = Views(**STILL | most, jitter=1)(gentle, rng(0)).double().numpy()
    for row, image in enumerate(gentle.double().numpy()):
        for kind, change in CHANGES.items():  # brightness, contrast, saturation, hue
            image = change(image, found[kind][row])
        assert np.abs(np.clip(image, 0, 1) - together[row]).max() < 1e-5


def test_grey_images_stay_grey_and_grey_views_have_equal_channels(x):
    colours = Views(**STILL | {"saturation": 0.9, "hue": 0.5}, jitter=1)
    torch.testing.assert_close(
        colours(x[:, :1].expand(-1, 3, -1, -1), rng(0)), x[:, :1].expand(-1, 3, -1, -1), rtol=0, atol=1e-5
    )
    shades = Views(**STILL | {"grey": 1.0}, jitter=0)(x, rng(0))
    want = (x * torch.tensor(GREY, dtype=torch.float32)[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(shades, want.expand(-1, 3, -1, -1), rtol=0, atol=1e-5)
    all_of_it = Views(grey=1.0)(x, rng(0))
    torch.testing.assert_close(all_of_it[:, 0], all_of_it[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(all_of_it[:, 0], all_of_it[:, 2], rtol=0, atol=1e-5)


def test_grey_is_a_share_of_the_images_whose_colours_change_or_not(x):
    seen = Views(jitter=0.5, grey=0.3)(x.repeat(100, 1, 1, 1), rng(0))
    grey = (seen.amax(1) - seen.amin(1)).amax((1, 2)) < 1e-5
    assert 0.25 < grey.float().mean() < 0.35


# --- pre-training --------------------------------------------------------------------------------------------


def test_labels_never_matter(tiny, encoder):
    soft = tiny.replace(y=torch.rand(80, 4, generator=rng("y")))
    made = [
        pretrain(encoder, images, loss=encoders.simclr, rng=rng(0), **FAST).state_dict()
        for images in (tiny, tiny.replace(y=tiny.y.flip(0)), tiny.replace(y=torch.zeros_like(tiny.y)), soft)
    ]
    assert all(same_bits(made[0], other) for other in made[1:])


def test_an_encoder_with_fewer_features_than_there_are_classes_is_pretrained():
    """Also at a size where the loop measures which precision is fastest."""
    images = pictures(height=8, width=8, classes=30, n=400)
    small = model("convnet2-w4", images, head=False)
    assert check_encoder(small, images) == 16
    pretrain(small, images, loss=encoders.simclr(hidden=8, out=4), epochs=1, batch_size=100)


def test_pretraining_repeats_and_leaves_encoder_images_and_loss_as_they_were(tiny, encoder):
    before, x, loss = state(encoder), tiny.x.clone(), encoders.simclr(hidden=16, out=8)
    made = [pretrain(encoder, tiny, loss=loss, rng=rng(seed), **FAST) for seed in (0, 0, 1)]
    assert same_bits(made[0].state_dict(), made[1].state_dict())
    assert not same_bits(made[0].state_dict(), made[2].state_dict())
    assert same_bits(state(encoder), before) and torch.equal(tiny.x, x)
    assert not hasattr(loss, "projector"), "the caller's loss stays as it was"
    assert made[0].spec == encoder.spec and not any(module.training for module in made[0].modules())
    unseeded = [pretrain(encoder, tiny, loss=loss, **FAST).state_dict() for _ in range(2)]
    assert same_bits(*unseeded)


def test_what_cannot_be_pretrained(tiny, net, encoder):
    with pytest.raises(BadInput, match=r"wrn10-1 is a classifier of 4 classes.*head=False"):
        pretrain(net, tiny, loss=encoders.simclr)
    with pytest.raises(BadInput, match=r"tiny has 80 images, fewer than a batch of 256\. Lower batch_size"):
        pretrain(encoder, tiny, loss=encoders.simclr)
    with pytest.raises(BadInput, match="takes 3 channels, the images have 1"):
        pretrain(encoder, tiny.replace(x=tiny.x[:, :1]), loss=encoders.simclr, batch_size=8)


def test_both_views_go_through_the_encoder_at_once(x):
    class Mean(nn.Module):
        def forward(self, both):
            self.took = both
            return both.mean((2, 3))

    encoder, views = Mean(), Views()
    one, two = seen(encoder, x, views, rng(0))
    draw = rng(0)
    assert torch.equal(encoder.took, torch.cat([views(x, draw), views(x, draw)]))
    assert torch.equal(torch.cat([one, two]), encoder.took.mean((2, 3)))
    laid_out = x.contiguous(memory_format=torch.channels_last)
    seen(encoder, laid_out, views, rng(0))
    assert encoder.took.is_contiguous(memory_format=torch.channels_last)


def test_pretraining_lowers_the_loss(digits):
    told = []
    with dt.watching(lambda done, steps, loss: told.append(loss)):
        start = model("convnet2-w8", digits.train, head=False, rng=rng("start"))
        options = {"epochs": 10, "batch_size": 128, "precision": "fp32", "memory_format": "contiguous"}
        pretrain(start, digits.train, loss=encoders.simclr, views=Views(flip=False), rng=rng(0), **options)
    assert told[-1] < told[0] - 0.2


def test_typical_images_are_those_nearest_to_the_mean_feature(tiny):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x.mean((2, 3)) * self.one

    seen = torch.nn.functional.normalize(tiny.pixels().mean((2, 3)), dim=1)
    order = sorted(range(80), key=lambda i: -float(seen[i] @ seen.mean(0)))
    found = typical(Mean(), tiny, 3)
    assert found.index.tolist() == tiny.index[order[:3]].tolist() and len(typical(Mean(), tiny[:2], 3)) == 2


def test_a_monitor_looks_after_every_epoch_and_changes_nothing(digits):
    start = model("convnet2-w8", digits.train, head=False, rng=rng("start"))
    monitor = dt.NeighbourMonitor(digits.train[:400], digits.train[400:700], "knn[k=20]")
    options = {"epochs": 5, "batch_size": 128, "views": Views(flip=False)}
    bare, watched = (
        pretrain(start, digits.train, loss=encoders.simclr, rng=rng(0), **options, **more)
        for more in ({}, {"monitor": monitor})
    )
    assert same_bits(bare.state_dict(), watched.state_dict())
    assert len(monitor.accuracy) == 5 and monitor.accuracy[-1] > 0.5
    monitor(watched)
    assert monitor.accuracy[5] == monitor.accuracy[4], "the last look is at what comes out"


# --- losses --------------------------------------------------------------------------------------------------


def bound(loss):
    """A loss without its projector, so that what it computes can be written out."""
    for name in ("projector", "predictor", "expander"):
        setattr(loss, name, nn.Identity())
    return loss


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_nt_xent_is_a_slow_loop(temperature):
    z = torch.randn(10, 6, generator=rng("z")).double().requires_grad_()
    unit, terms = (z / z.norm(dim=1, keepdim=True)).detach().numpy(), []
    for i in range(10):
        alike = {j: math.exp(float(unit[i] @ unit[j]) / temperature) for j in range(10) if j != i}
        terms.append(-math.log(alike[(i + 5) % 10] / sum(alike.values())))
    value = nt_xent(z, temperature)
    assert value.item() == pytest.approx(sum(terms) / 10, rel=1e-12)
    value.backward()
    assert z.grad.isfinite().all() and z.grad.abs().sum() > 0


def test_simclr_compares_what_the_projector_says():
    one, two = torch.randn(2, 5, 6, generator=rng("z"))
    value = bound(encoders.simclr(temperature=0.3))(one, two)
    torch.testing.assert_close(value, nt_xent(torch.cat([one, two]), 0.3))


def test_simsiams_targets_carry_no_gradient():
    loss = bound(encoders.simsiam())
    loss.predictor = nn.Linear(4, 4)
    with torch.no_grad():
        loss.predictor.weight.copy_(torch.randn(4, 4, generator=rng("w")))
    one, two = torch.randn(2, 5, 4, generator=rng("z"))
    one.requires_grad_()
    with torch.no_grad():
        p1, p2 = loss.predictor(one), loss.predictor(two)
    value = loss(one, two)
    want = -(F.cosine_similarity(p1, two).mean() + F.cosine_similarity(p2, one).mean()).item() / 2
    assert value.item() == pytest.approx(want, rel=1e-6)
    (found,) = torch.autograd.grad(value, one)
    (alone,) = torch.autograd.grad(-F.cosine_similarity(loss.predictor(one), two).mean() / 2, one)
    torch.testing.assert_close(found, alone)  # nothing through one's part as the other's target
    assert found.abs().sum() > 0


def test_vicregs_three_terms_by_hand():
    """Of z = (1, 2), (3, 2), (5, 2) the first variance is 4, the second 0; of z' the two dimensions are opposite."""
    one, two = torch.tensor([[1.0, 2], [3, 2], [5, 2]]), torch.tensor([[1.0, -1], [0, 0], [-1, 1]])
    by_itself = {
        "invariance": (0 + 9 + 9 + 4 + 36 + 1) / 6,
        "variance": ((0 + 1 - 0.01) / 2 + 0.0) / 2,  # of (4, 0) and of (1, 1), with 1e-4 under the root
        "covariance": (0 + 2 * 1.0**2) / 2,  # of z' cov = −1, twice off the diagonal, over two dimensions
    }
    for kind, want in by_itself.items():
        loss = bound(encoders.vicreg(**{"invariance": 0, "variance": 0, "covariance": 0} | {kind: 1.0}))
        assert loss(one, two).item() == pytest.approx(want, abs=1e-6), kind
    together = bound(encoders.vicreg())(one, two).item()
    assert together == pytest.approx(25 * sum(list(by_itself.values())[:2]) + by_itself["covariance"], abs=1e-4)


# --- heads ---------------------------------------------------------------------------------------------------


def blobs(classes=4, n=60, seed="blobs"):
    """Unit vectors [n,6] around one direction per class, of either sign, and their classes."""
    y = torch.arange(n) % classes
    centres = torch.randn(classes, 6, generator=rng("centres"))
    return F.normalize(centres[y] + 0.1 * torch.randn(n, 6, generator=rng(seed)), dim=1), y


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_separates_what_can_be_separated(classes):
    z, y = blobs(classes)
    more, theirs = blobs(classes, seed="more")
    fitted = heads.linear(z, y, classes)
    assert fitted(z).shape == (60, classes)
    assert torch.equal(fitted(z).argmax(1), y) and (fitted(more).argmax(1) == theirs).float().mean() > 0.95


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_says_what_scikit_learn_says(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    z, y = blobs(classes)
    z, y = (
        F.normalize(z + 0.5 * torch.randn(z.shape, generator=rng("noise")), dim=1),
        y[torch.randperm(60, generator=rng("order"))],
    )
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=500)).fit(z.double().numpy(), y.numpy())
    chance = heads.linear(z, y, classes)(z).softmax(1).detach().numpy()
    assert np.abs(chance - theirs.predict_proba(z.double().numpy())).max() < 0.02  # they divide by N, not by N − 1


def test_a_class_without_an_image_is_never_answered():
    z, y = blobs(2)
    anything = F.normalize(torch.randn(500, 6, generator=rng("anything")), dim=1)
    for fitted in (heads.linear(z, y * 3, 5), heads.knn(z, y * 3, 5, k=7)):
        assert set(fitted(anything).argmax(1).tolist()) == {0, 3}
    with pytest.raises(BadInput, match="all 30 images are of class 1"):
        heads.linear(z[y == 1], y[y == 1], 2)


@pytest.mark.parametrize("temperature", [0.5, 1e-3])
def test_one_neighbour_is_the_nearest(temperature):
    z, y = blobs(4)
    asked = torch.randn(200, 6, generator=rng("asked"))
    nearest = (F.normalize(asked, dim=1) @ z.T).argmax(1)
    assert torch.equal(heads.knn(z, y, 4, k=1, temperature=temperature)(asked).argmax(1), y[nearest])
    assert torch.equal(heads.knn(z, y, 4, k=1)(z).argmax(1), y)


def test_neighbours_vote_by_their_likeness():
    bank, y = torch.eye(3), torch.tensor([0, 1, 1])
    asked = F.normalize(torch.tensor([[3.0, 2.0, 1.0]]), dim=1)
    cosines = (asked / asked.norm()).flatten().tolist()
    votes = [math.exp(c / 0.5) for c in cosines]
    chance = heads.knn(bank, y, 2, k=10)(asked).softmax(1).flatten().tolist()
    assert chance == pytest.approx([votes[0] / sum(votes), (votes[1] + votes[2]) / sum(votes)], rel=1e-5)
    two = heads.knn(bank, y, 2, k=2)(asked).softmax(1).flatten().tolist()
    assert two[0] == pytest.approx(votes[0] / (votes[0] + votes[1]), rel=1e-5)


def test_mlp_repeats_under_rng_and_learns():
    z, y = blobs(4)
    made = [heads.mlp(z, y, 4, epochs=20, lr=1e-2, rng=rng(seed)) for seed in (0, 0, 1)]
    assert same_bits(made[0].state_dict(), made[1].state_dict())
    assert not same_bits(made[0].state_dict(), made[2].state_dict())
    assert torch.equal(made[0](z).argmax(1), y)
    widths = [part.out_features for part in made[0] if isinstance(part, nn.Linear)]
    assert widths == [512, 256, 4]


def test_a_head_is_fitted_by_name_or_by_a_function(tiny, encoder):
    encoder.eval()
    with pytest.raises(NotFound, match=r"'knm'. Did you mean 'knn'"):
        dt.fit_head(encoder, tiny, "knm")
    with pytest.raises(BadInput, match="k=0"):
        dt.fit_head(encoder, tiny, "knn[k=0]")
    probe = dt.fit_head(encoder, tiny, "knn[k=1]")
    assert probe.head.k == 1 and torch.equal(predict(probe, tiny), tiny.y)
    assert torch.equal(probe.head.bank, features(encoder, tiny))

    def first(z, y, classes, rng):
        assert z.shape == (80, 64) and y.dtype == torch.int64 and classes == 4
        torch.testing.assert_close(z.norm(dim=1), torch.ones(80))
        return make("linear", features=64, classes=4)

    assert dt.fit_head(encoder, tiny, first)(tiny.pixels()).shape == (80, 4)
    soft = tiny.replace(y=F.one_hot(tiny.y, 4).float())
    assert torch.equal(predict(dt.fit_head(encoder, soft, "knn[k=1]"), tiny), tiny.y)


def test_a_constant_encoder_is_flagged_as_collapsed(tiny, encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dt.fit_head(encoder, tiny)
        with pytest.raises(Flag, match="collapsed: the encoder gives every image the same feature"):
            encoder.bn1.weight.data.zero_()
            encoder.bn1.bias.data.fill_(1.0)
            dt.fit_head(encoder, tiny)


def test_a_probe_answers_from_features_of_length_one(tiny, encoder):
    head = make("linear", features=64, classes=4)
    with eval_mode(encoder):
        probe = dt.Probe(encoder, head)
        torch.testing.assert_close(probe(tiny.pixels()), head(F.normalize(encoder(tiny.pixels()), dim=1)))
        torch.testing.assert_close(features(encoder, tiny), F.normalize(encoder(tiny.pixels()), dim=1))


# --- models without a head -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EVERY, "mlp", "lenet"])
def test_a_model_without_its_head(name, tmp_path):
    images = pictures(height=16, width=16)
    encoder = model(name, images, head=False, rng=rng("weights"))
    size = check_encoder(encoder, images)

    # The same weights as a classifier's of one class. With K classes the head draws K times as many numbers, and where
    # a family draws its convolutions behind it, as `he_init` does, they are others.
    whole = model(name, images, classes=1, rng=rng("weights"))
    ours, theirs = encoder.state_dict(), whole.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    (place,) = resolve(whole, "embedding", images.x.shape[1:])
    head = place.removesuffix(":input")
    assert theirs.keys() - ours.keys() == {f"{head}.weight", f"{head}.bias"}
    with eval_mode(whole), eval_mode(encoder):
        seen = encoder(images.pixels())
        assert seen.shape == (8, size)
        torch.testing.assert_close(whole.get_submodule(head)(seen), whole(images.pixels()))

    assert encoder.spec == {"name": name, "head": False, "channels": 3, "size": 16}
    again = dt.load(dt.save(encoder, tmp_path / "encoder.safetensors"))
    assert again.spec == encoder.spec and same_bits(again.state_dict(), ours)
    assert model(**json.loads(json.dumps(encoder.spec))).state_dict().keys() == ours.keys()
    assert copy.deepcopy(encoder).spec == encoder.spec

    with pytest.raises(BadInput, match=r"is an encoder, which returns features\. Type fit_head"):
        dt.fit(encoder, images, epochs=1)
    rows = {row.path: row for row in layers(encoder)}
    assert rows[head].type == "Identity" and rows[head].shape == (size,)
    if name != "mlp":
        assert resolve(encoder, "groups") == resolve(whole, "groups")
        assert resolve(encoder, head) == [head]


def test_an_encoder_needs_no_classes():
    assert model("wrn10-1", head=False, channels=1, size=8)(torch.rand(2, 1, 8, 8)).shape == (2, 64)
    assert model("wrn10-1", head=False, classes=7).spec == {"name": "wrn10-1", "head": False, "channels": 3, "size": 32}


def test_what_is_no_encoder(tiny, net, encoder):
    assert check_encoder(encoder, tiny) == 64
    with pytest.raises(BadInput, match=r"wrn10-1 is a classifier of 4 classes.*head=False"):
        check_encoder(net, tiny)
    with pytest.raises(BadInput, match=r"Conv2d returns \(4, 8, 8\) per image; an encoder returns a vector"):
        check_encoder(nn.Conv2d(3, 4, 3, padding=1), tiny)
    with pytest.raises(BadInput, match="takes 3 channels, the images have 1"):
        check_encoder(encoder, tiny.replace(x=tiny.x[:, :1]))
    grey = ImageSet(tiny.x[:, :1], tiny.y, tiny.classes)
    with pytest.raises(BadInput, match=r"classifier of 4 classes"):
        dt.fit_head(model("wrn10-1", grey), grey)
