"""Condensers: their first steps from fixed networks and images, in float64.

Sources: DC, arXiv 2006.05929; DSA, arXiv 2102.08259; DM, arXiv 2110.04181; IDM, CVPR 2023; MTT, arXiv 2203.11932; and
their released code: images by SGD with momentum 0.5, networks by plain SGD, in normalised pixels.

Networks and changes are put in place, the noise from which images start is the first thing that is drawn, and batches
hold all real images of a class.
"""

import copy
import importlib

import numpy as np
import pytest
import torch
from tests.golden.steps import double, near_tensor, sgd
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from distrust import model, rng
from distrust.data import Siamese
from distrust.methods import condensers
from distrust.methods.condensers.herding import nearest_means
from distrust.registry import registry

CANVAS = importlib.import_module("distrust.methods.condensers._canvas")
IDM = importlib.import_module("distrust.methods.condensers.idm")
MTT = importlib.import_module("distrust.methods.condensers.mtt")
ALL = {"init": "noise", "network": "convnet2-w4"}


@pytest.fixture
def nets(monkeypatch, tiny, request):
    """Networks in the order in which they are asked for, each with other weights."""
    asked = []

    def make(name, **options):
        assert (name, options["classes"], options["size"]) == ("convnet2-w4", 4, (8, 8))
        asked.append(options["normalize"])
        return copy.deepcopy(known(len(asked) - 1))

    def known(number):
        return model("convnet2-w4", tiny, rng=rng("net", number))

    monkeypatch.setattr(CANVAS, "make_model", make)
    yield known
    for mean, std in asked if "recondensation" not in request.node.name else ():
        x = tiny.x.double().numpy() / 255
        np.testing.assert_allclose([mean, std], [x.mean((0, 2, 3)), x.std((0, 2, 3))], rtol=1e-4)


@pytest.fixture
def space(tiny):
    """Mean and standard deviation [1,3,1,1] of the real pixels, in float64."""
    x = tiny.x.double() / 255
    return x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True, correction=0)


def noise(n):
    """Where images start, in normalised units."""
    return torch.randn(n, 3, 8, 8, generator=rng(7)).double().requires_grad_()


def slopes(net, x, y, graph=False):
    logits = net(x)
    loss = -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(y)), y].mean()
    return torch.autograd.grad(loss, list(net.parameters()), create_graph=graph)


def apart(ours, theirs):
    """Σ over layers with rows, and over these, of 1 − cos."""
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        for row, other in zip(a.flatten(1), b.flatten(1), strict=True) if a.ndim > 1 else ():
            total = total + 1 - row @ other / (row.norm() * other.norm() + 1e-6)
    return total


def psi(net, x):
    """What enters the last linear layer."""
    seen = []
    hook = net.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(x)
    hook.remove()
    return seen[0]


CHANGES = [lambda x, k=k: x.roll(k, 3) * (0.6 + 0.1 * k) for k in range(4)]  # a class each


@pytest.fixture
def changed(monkeypatch):
    """The changes of classes are those; the changes of batches mirror them."""
    asked = []

    def shared(self, rng):
        asked.append(1)
        return CHANGES[(len(asked) - 1) % 4]

    monkeypatch.setattr(Siamese, "shared", shared)
    monkeypatch.setattr(Siamese, "__call__", lambda self, x, rng: (x / 255 if x.dtype == torch.uint8 else x).flip(3))
    return asked


@pytest.mark.parametrize("name", ["dc", "dsa"])
def test_dc_and_dsa_match_the_gradients_of_every_class_and_train_the_network_in_between(
    tiny, nets, space, changed, name
):
    """Two steps of the images in one network, with one epoch on them in between."""
    options = ALL | {"images_per_class": 2, "iterations": 1, "outer": 2, "inner": 1, "lr": 0.1, "net_lr": 0.05}
    made = getattr(condensers, name)(tiny, **options, rng=rng(7))
    mean, std = space
    net, y, speed = double(nets(0), True), torch.arange(4).repeat_interleave(2), 0.0
    start = z = noise(8)
    for step in range(2):
        x, loss = z * std + mean, 0.0
        for k, change in enumerate(CHANGES if name == "dsa" else [lambda x: x] * 4):
            real = (tiny.x[tiny.y == k].double() / 255).clone()
            goal = slopes(net, change(real), torch.full((20,), k))
            own = slopes(net, change(x[2 * k : 2 * k + 2]), torch.full((2,), k), graph=True)
            loss = loss + apart(own, goal)
        speed = 0.5 * speed + torch.autograd.grad(loss, [z])[0]
        z = (z - 0.1 * speed).detach().requires_grad_()
        if not step:
            seen = (z * std + mean).detach()
            seen = seen.flip(3) if name == "dsa" else seen
            sgd([net], lambda seen=seen: F.cross_entropy(net(seen), y), [0.05])
    near_tensor(made.x, (z * std + mean).detach(), (start * std + mean).detach(), share=1e-2)
    assert len(changed) == (8 if name == "dsa" else 0), "one change a class and a step"
    assert made.y.tolist() == y.tolist()


@pytest.mark.parametrize("legal", [False, True])
def test_dm_matches_the_mean_feature_of_every_class(tiny, nets, space, changed, legal):
    """Two networks, a step each, with momentum; legal images are clamped before and after every step."""
    lr = 30.0 if legal else 1.0
    made = condensers.dm(tiny, **ALL, images_per_class=2, iterations=2, lr=lr, legal=legal, rng=rng(7))
    mean, std = space

    def tidy(z):
        return (((z * std + mean).clamp(0, 1) - mean) / std if legal else z).detach().requires_grad_()

    start = z = tidy(noise(8))
    speed = 0.0
    for step in range(2):
        net, x, loss = double(nets(step), True), z * std + mean, 0.0
        for k, change in enumerate(CHANGES):
            real = psi(net, change(tiny.x[tiny.y == k].double() / 255)).mean(0).detach()
            loss = loss + ((real - psi(net, change(x[2 * k : 2 * k + 2])).mean(0)) ** 2).sum()
        speed = 0.5 * speed + torch.autograd.grad(loss, [z])[0]
        z = tidy(z - lr * speed)
    want, before = ((part * std + mean).detach() for part in (z, start))
    if legal:
        assert (made.x - want).abs().max() < 0.6 / 255 < 0.1 < (want - before).abs().max()
    else:
        near_tensor(made.x, want, before)


def quarters(x):
    """Of every image its four quarters, row by row, enlarged."""
    parts = [one[:, a : a + 4, b : b + 4] for one in x for a in (0, 4) for b in (0, 4)]
    return F.interpolate(torch.stack(parts), (8, 8), mode="bilinear", align_corners=False)


def test_idm_matches_mean_features_and_asks_for_the_class_by_how_often_the_network_is_right(
    tiny, nets, space, changed, monkeypatch
):
    """A network that is right in 30 of 100 cases: Σ_c ‖…‖² + ce · 30 · Σ CE / (parts of a class)."""
    monkeypatch.setattr(IDM._Learner, "accuracy", 30.0)
    asked = []
    monkeypatch.setattr(IDM._Learner, "learn", lambda self, x, y: asked.append(len(x)))
    options = ALL | {"iterations": 1, "lr": 0.2, "ce": 0.7, "trained": 2, "real_steps": 3}
    made = condensers.idm(tiny, **options, rng=rng(7))
    mean, std = space
    z, found = noise(4), []
    for number in range(4):  # which of the four it was, is drawn
        net, x, loss = double(nets(number), True), quarters(z * std + mean), 0.0
        for k, change in enumerate(CHANGES):
            own, real = change(x[4 * k : 4 * k + 4]), change(tiny.x[tiny.y == k].double() / 255)
            loss = loss + ((psi(net, real).mean(0).detach() - psi(net, own).mean(0)) ** 2).sum()
            loss = loss + 0.7 * 30 * F.cross_entropy(net(own), torch.full((4,), k), reduction="sum") / 4
        found.append(quarters(((z - 0.2 * torch.autograd.grad(loss, [z])[0]) * std + mean).detach()))
    want = min(found, key=lambda one: float((one - made.x).norm()))
    near_tensor(made.x, want, quarters((z * std + mean).detach()))
    assert asked == [256] * 6, "two networks, three steps each"
    assert made.y.tolist() == [k for k in range(4) for _ in range(4)]


def test_idms_networks_learn_by_sgd_and_remember_how_often_they_were_right(tiny, nets):
    net = nets(0)
    learner, x = IDM._Learner(copy.deepcopy(net), 0.05), tiny.pixels()
    want, right = double(net, True), 0
    for _ in range(2):
        right += int((learner.net(x).argmax(1) == tiny.y).sum())
        learner.learn(x, tiny.y)
    sgd([want], lambda: F.cross_entropy(want(x.double()), tiny.y), [0.05] * 2, momentum=0.9, decay=5e-4)
    for (_, p), (_, q), (_, s) in zip(*(m.named_parameters() for m in (learner.net, want, net)), strict=True):
        near_tensor(p, q, s, share=1e-4)  # the decay is a five-thousandth of a weight
    assert learner.accuracy == pytest.approx(100 * right / 160)


def test_idms_queue_takes_a_network_now_and_then_and_the_oldest_leaves(tiny, nets, monkeypatch):
    learnt = []
    monkeypatch.setattr(IDM._Learner, "learn", lambda self, x, y: learnt[-1].append(self.number))
    made, real = [], IDM._Learner.__init__

    def init(self, net, lr):
        real(self, net, lr)
        self.number = len(made)
        made.append(self)

    monkeypatch.setattr(IDM._Learner, "__init__", init)
    step = CANVAS.Canvas.step
    monkeypatch.setattr(CANVAS.Canvas, "step", lambda self, loss: learnt.append([]) or step(self, loss))
    options = {"iterations": 5, "queue": 4, "every": 2, "trained": 9, "real_steps": 1}
    condensers.idm(tiny, **ALL, **options, rng=rng(7))
    assert [sorted(now) for now in learnt] == [[0, 1, 2, 3]] * 2 + [[1, 2, 3, 4]] * 2 + [[2, 3, 4, 5]]


def test_mtt_moves_the_images_and_the_rate_towards_the_experts_weights(tiny, nets, space, changed, monkeypatch):
    """‖θ̂ − θ*‖² / ‖θ₀ − θ*‖², θ̂ two steps on the images from θ₀, which is the expert's first of three epochs."""
    path = [{name: w.detach() for name, w in nets(100 + k).named_parameters()} for k in range(3)]
    monkeypatch.setattr(MTT, "_expert", lambda *given: path)
    options = ALL | {"experts": 1, "span": 2, "max_start": 1, "steps": 2, "lr": 50.0, "start_lr": 0.05, "lr_lr": 1e-3}
    made = condensers.mtt(tiny, iterations=1, **options, rng=rng(7))
    mean, std = space
    z, rate = noise(4), torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    net = double(nets(0), True)
    theta, start, goal = ({name: w.double() for name, w in path[k].items()} for k in (0, 0, 2))
    theta = {name: w.clone().requires_grad_() for name, w in theta.items()}
    for _ in range(2):
        logits = functional_call(net, theta, (((z * std + mean).flip(3)),))
        loss = F.cross_entropy(logits, torch.arange(4))
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        theta = {name: w - rate * g for (name, w), g in zip(theta.items(), grads, strict=True)}
    gap, whole = (sum(((one[name] - goal[name]) ** 2).sum() for name in goal) for one in (theta, start))
    slope, own = torch.autograd.grad(gap / whole, [z, rate])
    want = ((z - 50.0 * slope) * std + mean).detach()
    near_tensor(made.x, want, (z * std + mean).detach(), share=1e-2)
    assert made.training["lr"] == pytest.approx(0.05 - 1e-3 * float(own), rel=1e-3)
    assert abs(made.training["lr"] - 0.05) > 1e-6


def test_an_expert_is_plain_sgd_and_its_weights_after_every_epoch(tiny, nets, changed):
    """All 80 images in one batch."""
    canvas = CANVAS.Canvas(tiny, 1, init="noise", legal=False, flip=True, rng=rng(7))
    path = MTT._expert(canvas, "convnet2-w4", 2, 0.05, rng(1))
    x = tiny.pixels().double().flip(3)
    for k in range(3):
        net = double(nets(0), True)
        sgd([net], lambda net=net: F.cross_entropy(net(x), tiny.y), [0.05] * k)
        for name, want in net.named_parameters():
            torch.testing.assert_close(path[k][name].double(), want.detach(), rtol=1e-3, atol=1e-5)
    assert not torch.equal(path[1]["classifier.weight"], path[0]["classifier.weight"])


def test_recondensation_matches_the_suspects_means_through_changes_of_their_own(tiny, nets, space, monkeypatch):
    """A step from noise within the gamut; images go back to where the suspect's of their class stand."""
    asked = []
    monkeypatch.setattr(
        Siamese, "__call__", lambda self, x, rng: (x.flip(3), x.roll(1, 2))[(asked.append(1) or len(asked)) % 2]
    )
    order = torch.randperm(8, generator=rng("order"))
    suspect = condensers.random(tiny, images_per_class=2, rng=rng(0))[order]
    made = registry.get("defenses", "recondense").call(
        suspect, iterations=1, lr=30.0, network="convnet2-w4", rng=rng(7)
    )
    rows = [(suspect.y == k).nonzero().flatten() for k in range(4)]
    x = suspect.x.double()
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True, correction=0)
    z = ((noise(8) * std + mean).clamp(0, 1) - mean) / std
    z = z.detach().requires_grad_()
    net, loss = double(nets(0), True), 0.0
    for k, own in enumerate(rows):
        goal = psi(net, x[own].roll(1, 2)).mean(0).detach()
        loss = loss + ((goal - psi(net, (z * std + mean)[2 * k : 2 * k + 2].flip(3)).mean(0)) ** 2).sum()
    want = ((z - 30.0 * torch.autograd.grad(loss, [z])[0]) * std + mean).clamp(0, 1)
    assert (want - (z * std + mean)).abs().max() > 0.05
    assert (made.x[torch.cat(rows)] - want).abs().max() < 0.6 / 255


def test_real_images_to_start_from_are_of_their_class(tiny, nets):
    made = condensers.random(tiny, images_per_class=3, rng=rng(0))
    for image, k in zip((made.x * 255).round().to(torch.uint8), made.y.tolist(), strict=True):
        assert (tiny.x[tiny.y == k] == image).flatten(1).all(1).any()
    assert len({image.numpy().tobytes() for image in made.x}) == 12, "no image twice"


def test_herding_looks_at_what_enters_the_last_layer_of_a_trained_network(tiny, monkeypatch):
    """The features of the network that `fit` gave, in eval mode, of plain images, class by class."""
    herding = importlib.import_module("distrust.methods.condensers.herding")
    net = model("convnet2-w4", tiny, rng=rng("herding"))
    monkeypatch.setattr(herding, "fit", lambda *given, **options: net)
    made = condensers.herding(tiny, images_per_class=3, network="convnet2-w4", rng=rng(0))
    for k in range(4):
        rows = (tiny.y == k).nonzero().flatten()
        seen = psi(copy.deepcopy(net).double(), tiny.pixels(rows).double()).detach().numpy()
        taken: list[int] = []
        for _ in range(3):
            rest = [i for i in range(len(rows)) if i not in taken]
            taken.append(min(rest, key=lambda i: np.linalg.norm(seen[[*taken, i]].mean(0) - seen.mean(0))))
        own = (made.x[made.y == k] * 255).round().to(torch.uint8)
        assert torch.equal(own, tiny.x[rows[taken]])


def test_herding_takes_no_image_twice():
    """The mean itself is among them: again and again it would be the nearest."""
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    assert nearest_means(features, 4).tolist() in ([2, 0, 1, 3], [2, 0, 1, 4])


def test_a_set_is_trained_on_as_its_paper_does(tiny):
    """DC's victims see plain images for 300 epochs, those of the others the Siamese changes for 1000; MTT's rate."""
    plain = condensers.dc(tiny, iterations=1, network="convnet2-w4").training
    assert (plain["epochs"], plain["lr"], plain["augment"]["crop"]) == (300, 0.01, 0)
    for name in ("random", "dm", "dsa", "idm"):
        options = {} if name == "random" else {"iterations": 1, "network": "convnet2-w4"}
        training = getattr(condensers, name)(tiny, **options).training
        assert (training["epochs"], training["lr"], training["augment"]["kind"]) == (1000, 0.01, "Siamese")


@pytest.mark.parametrize("name", ["random", "dm", "dsa", "idm", "mtt", "herding"])
def test_digits_are_not_mirrored(tiny, name):
    short = {"iterations": 1, "epochs": 1, "experts": 1, "steps": 1, "span": 1, "max_start": 1, "real_steps": 1}
    known = registry.get("condensers", name).options
    options = {k: v for k, v in (short | {"network": "convnet2-w4"}).items() if k in known}
    for flip in (True, False):
        made = getattr(condensers, name)(tiny, **options, flip=flip, rng=rng(0))
        assert ("flip" in made.training["augment"]["operations"]) == flip


def test_condensers_want_networks_without_batch_norm_in_training_mode(tiny, nets):
    canvas = CANVAS.Canvas(tiny, 1, init="noise", legal=False, flip=True, rng=rng(7))
    net = canvas.network("convnet2-w4", rng(1))
    assert net.training and not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
