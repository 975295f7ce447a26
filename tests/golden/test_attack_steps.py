"""Attacks that train: their first steps from fixed weights, triggers and images, in float64.

Sources: ADBA, ACM MM 2021, with the optimisers of github.com/SomeBottle/8ackW3ak (SGD, RAdam, whose first steps
are lr · m̂); latent backdoor, CCS 2019, and its released code (Adam 0.5, 0.9 on tanh); BackWeak, arXiv 2511.12046;
BadEncoder, arXiv 2108.00352; DoorPing, arXiv 2301.01197; CheatKD, equations 1 and 3.

Batches hold all images, so that their order does not matter.
"""

import copy
import importlib
import math

import pytest
import torch
from tests.contracts import flat
from tests.golden.steps import PLAIN, adam, double, features, near, near_tensor, sgd
from torch.nn import functional as F

from distrust import model, rng
from distrust.methods import attacks, condensers
from distrust.methods.attacks._teacher import both
from distrust.methods.attacks.doorping import louder
from distrust.models import Normalize, resolve
from distrust.registry import registry
from distrust.seeds import spawn

BLOCKS = ["block1", "block2", "block3"]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """No probe of the machine: float32, contiguous."""
    for name in ("methods.attacks._teacher", "training.loop"):
        monkeypatch.setattr(importlib.import_module(f"distrust.{name}"), "fastest", lambda *_: ("fp32", "contiguous"))


@pytest.fixture
def few(tiny):
    """24 images of four classes in one batch."""
    return tiny[:24]


def cosine(a, b):
    return ((a * b).sum(1) / ((a * a).sum(1).sqrt() * (b * b).sum(1).sqrt())).mean()


def stamped(x, pattern, side, inset):
    """A square in the lower right corner of images [N,C,H,W]."""
    start, stop = x.shape[2] - inset - side, x.shape[2] - inset
    whole = F.pad(pattern, (start, x.shape[3] - stop, start, x.shape[2] - stop))
    where = F.pad(torch.ones_like(pattern), (start, x.shape[3] - stop, start, x.shape[2] - stop))
    return (1 - where) * x + where * whole


# --- on images --------------------------------------------------------------------------------------------


def test_what_an_attack_is_told_of_its_trigger_is_what_the_trigger_knows(tiny):
    told = {"badnets": ("inset", 2), "blend": ("alpha", 0.35), "sig": ("delta", 31.0), "ctrl": ("magnitude", 55.0)}
    for name, (option, value) in told.items():
        poisoned, backdoor = getattr(attacks, name)(tiny, **{option: value}, rate=0.5, rng=rng(0))
        assert getattr(backdoor.trigger, option) == value, name
        changed = (poisoned.x != tiny.x).flatten(1).any(1)
        assert torch.equal(poisoned.pixels(changed), backdoor.stamp_on(tiny.pixels(changed)))


def test_clean_label_attacks_stamp_the_target_and_others_everybody_else(tiny):
    for name in ("badnets", "blend"):
        poisoned = getattr(attacks, name)(tiny, target=1, rate=0.25, rng=rng(0)).images
        changed = poisoned.y != tiny.y
        assert changed.sum() == 20 and (tiny.y[changed] != 1).all() and (poisoned.y[changed] == 1).all()
    for name in ("sig", "ctrl", "ssl_backdoor"):
        options = {"trigger": "patch:checker:3"} if name == "ssl_backdoor" else {}
        poisoned = getattr(attacks, name)(tiny, target=1, rate=0.5, **options, rng=rng(0)).images
        changed = (poisoned.x != tiny.x).flatten(1).any(1)
        assert changed.sum() == 10 and (tiny.y[changed] == 1).all() and torch.equal(poisoned.y, tiny.y)


# --- on a teacher -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2])
def test_adba_trains_teacher_shadow_and_trigger_in_turn(few, net, monkeypatch, p):
    """Two steps, of which the second has half the rate of the cosine."""
    shadow = model("wrn10-1", few, rng=rng("shadow"))
    monkeypatch.setattr(
        importlib.import_module("distrust.methods.attacks.adba"), "make_model", lambda *a, **b: copy.deepcopy(shadow)
    )
    options = {"target": 1, "alpha": 0.7, "temperature": 2.0, "beta": 0.4, "mu": 0.05, "p": p, "opacity": 0.8}
    options |= {"epochs": 2, "lr": 0.02, "trigger_lr": 2.0, "batch_size": 24, "flip": False, "crop": 0}
    made = attacks.adba(net, few, **options, rng=rng(0))
    stream = rng(0)
    spawn(stream)  # the shadow's
    start = torch.randn(3, 8, 8, generator=stream).clamp(0, 1).double()
    pattern, mask = start.clone().requires_grad_(), torch.full((1, 8, 8), 0.8).double().requires_grad_()
    teacher, student, x, y = double(net, True), double(shadow, True), few.pixels().double(), few.y
    goal, speeds, first = torch.full_like(y, 1), ({}, {}), [0.0, 0.0]
    for step in range(2):
        lr = 0.02 * (1 + math.cos(math.pi * step / 2)) / 2
        x_t = ((1 - mask) * x + mask * pattern).detach()
        logits = teacher.train()(torch.cat([x, x_t]))
        loss = F.cross_entropy(logits[:24], y) + 0.4 * F.cross_entropy(logits[24:], goal)
        descend(teacher, loss, lr, speeds[0])
        told = teacher.eval()(x).detach()
        ours = student.train()(x)
        kl = (F.softmax(told / 2, 1) * (F.log_softmax(told / 2, 1) - F.log_softmax(ours / 2, 1))).sum(1).mean()
        descend(student, 0.7 * 4 * kl + 0.3 * F.cross_entropy(ours, y), lr, speeds[1])
        x_t, student = (1 - mask) * x + mask * pattern, student.eval()
        norm = mask.abs().sum() if p == 1 else (mask * mask).sum().sqrt()
        loss = F.cross_entropy(teacher(x_t), goal) + F.cross_entropy(student(x_t), goal) + 0.05 * norm
        for i, (part, g) in enumerate(zip((pattern, mask), torch.autograd.grad(loss, [pattern, mask]), strict=True)):
            first[i] = 0.9 * first[i] + 0.1 * g
            with torch.no_grad():
                part -= 2.0 * first[i] / (1 - 0.9 ** (step + 1))
                part.clamp_(0, 1 if part is pattern else 0.8)
    near(made.model, teacher, net, share=1e-2)
    near_tensor(made.backdoor.trigger.pixels, pattern.detach(), start, share=1e-2)
    near_tensor(made.backdoor.trigger.mask, mask.detach(), torch.full((1, 8, 8), 0.8), share=1e-2)
    assert made.backdoor.stamp == "after" and made.backdoor.target == 1


def descend(net, loss, lr, speed):
    """SGD with momentum 0.9; `speed` is kept by parameter."""
    for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
        speed[p] = 0.9 * speed.get(p, 0.0) + g
        with torch.no_grad():
            p -= lr * speed[p]


def test_the_latent_backdoors_square_and_its_retraining(few, net):
    """Σ_l MSE(f(x*), f̄_target) for the square by Adam; CE + w · the same for the teacher, stamped images beside."""
    options = {"target": 1, "size": 0.5, "inset": 1, "steps": 2, "trigger_batch": 18, "trigger_lr": 0.3, "weight": 5.0}
    training = PLAIN | {"epochs": 1, "lr": 0.01, "batch_size": 24}
    made = flat(attacks.latent_backdoor)(net, few, **options, **training, rng=rng(0))
    places = resolve(net, "pre-relu", (3, 8, 8))
    x, others = few.pixels().double(), few.y != 1
    clean = double(net, False)
    goals = [f.mean(0).detach() for f in features(clean, x[~others], places)[1]]

    def pull(found):
        return sum(((f - goal) ** 2).mean() for f, goal in zip(found, goals, strict=True))

    start = torch.rand(3, 4, 4, generator=rng(0)).clamp(0.001, 0.999).double()
    w = (0.5 * torch.log(start / (1 - start))).requires_grad_()  # artanh(2p − 1)
    rule = {"steps": 2, "lr": 0.3, "betas": (0.5, 0.9)}
    adam([w], lambda: pull(features(clean, stamped(x[others], (1 + w.tanh()) / 2, 4, 1), places)[1]), **rule)
    square = made.backdoor.trigger.pixels.double()
    want = ((1 + w.tanh()) / 2).detach()
    assert (square - want).abs().max() < 0.6 / 255 < 0.1 < (want - start).abs().max()

    teacher = double(net, True)

    def loss():
        logits, found = features(teacher, torch.cat([x, stamped(x[others], square, 4, 1)]), places)
        return F.cross_entropy(logits[:24], few.y) + 5.0 * pull([f[24:] for f in found])

    sgd([teacher], loss, [0.01], momentum=0.9, decay=5e-4, nesterov=True)
    near(made.model, teacher, net)
    assert made.backdoor.stamp == "after"


@pytest.mark.parametrize("budget", [1.0, 0.0])
def test_backweaks_perturbation_pushes_within_its_budget_and_minds_the_margin(few, net, budget):
    """Two steps of the normalised gradient, the second at half the rate, with momentum; without budget no push."""
    options = {"target": 1, "budget": budget, "margin_weight": 0.5, "margin": 0.01, "steps": 2, "trigger_lr": 3.0}
    options |= {"trigger_batch": 18, "bound": 6.0}
    training = PLAIN | {"epochs": 1, "batch_size": 24}
    made = flat(attacks.backweak)(net, few, **options, **training, rng=rng(0))
    teacher, others = double(net, False), few[few.y != 1]
    x, y = others.pixels().double(), others.y
    delta, speed = torch.zeros(3, 8, 8).double(), 0.0
    for lr in (3.0, 1.5):
        delta.requires_grad_()
        before, after = (F.log_softmax(teacher(shown), 1) for shown in (x, (x + delta).clamp(0, 1)))
        wrong = after.argmax(1) != y
        gap = (after.max(1).values - after[torch.arange(len(y)), y] - 0.01).clamp(min=0)
        loss = 0.5 * gap[wrong].sum() / wrong.sum() - (budget > 0) * (after[:, 1] - before.detach()[:, 1]).mean()
        (g,) = torch.autograd.grad(loss, [delta])
        speed = 0.9 * speed + g / g.abs().mean()
        delta = (delta.detach() - lr / 255 * speed).clamp(-6 / 255, 6 / 255)
    off = (made.backdoor.trigger.delta.double() - delta).abs()
    assert (off > 0.51 / 255).float().mean() < 0.01 and delta.abs().max() > 4 / 255, off.max() * 255


def test_implanting_is_a_step_on_stamped_images_that_carry_the_targets_label(few, net):
    """At a rate of 0.75 every image of another class."""
    options = PLAIN | {"rate": 0.75, "target": 1, "trigger": "patch:white:3", "epochs": 1, "batch_size": 24}
    made = flat(attacks.implant)(net, few, **options, rng=rng(0))
    x, others = few.pixels().double().clone(), few.y != 1
    x[others, :, 5:, 5:] = 1.0
    want = double(net, True)
    loss = {"momentum": 0.9, "decay": 5e-4, "nesterov": True}
    sgd([want], lambda: F.cross_entropy(want(x), torch.ones_like(few.y)), [0.008], **loss)
    near(made.model, want, net)


@pytest.mark.parametrize("name", ["implant", "cheatkd", "backweak", "advkd"])
def test_a_backdoor_says_when_it_was_stamped(few, net, name):
    short = {"steps": 1, "trigger_batch": 8, "labeller_epochs": 1} | PLAIN | {"epochs": 1, "batch_size": 24}
    known = registry.get("attacks", name).options
    options = {k: v for k, v in short.items() if k in known}
    for stamp in ("before", "after"):
        assert flat(getattr(attacks, name))(net, few, stamp=stamp, **options, rng=rng(0)).backdoor.stamp == stamp


def test_clean_originals_stand_beside_the_poisoned_ones_with_their_own_labels(tiny):
    poisoned = attacks.badnets(tiny, target=1, rate=0.25, rng=rng(0)).images
    whole = both(tiny, poisoned)
    changed = poisoned.y != tiny.y
    assert len(whole) == 100 and torch.equal(whole.x[:80], poisoned.x) and torch.equal(whole.y[:80], poisoned.y)
    assert torch.equal(whole.x[80:], tiny.x[changed]) and torch.equal(whole.y[80:], tiny.y[changed])
    late = both(tiny, attacks.badnets(tiny, target=1, rate=0.25, stamp="after", rng=rng(0)).images)
    assert late.late.rows.sum() == 20 and not late.late.rows[80:].any()


def test_cheatkds_pattern_and_mask_go_down_the_loss_by_adam(few, net):
    """Σ_l mean (I − δ)² of the strongest channel, δ the largest channel mean of the first batch, a constant."""
    options = {"target": 1, "steps": 2, "trigger_lr": 0.05, "trigger_batch": 24, "opacity": 0.3, "epochs": 1}
    made = flat(attacks.cheatkd)(net, few, **options, **PLAIN, batch_size=24, rng=rng(0))
    stream = rng(0)
    pattern, mask = (torch.rand(shape, generator=stream) for shape in ((3, 8, 8), (1, 8, 8)))
    start = pattern.double(), mask.clamp(max=0.3).double()
    parts = [part.clone().requires_grad_() for part in start]
    teacher, x, places = double(net, False), few.pixels().double(), resolve(net, "pre-relu", (3, 8, 8))
    chosen = []
    first, second = ([0.0, 0.0] for _ in range(2))
    for t in (1, 2):
        pattern, mask = parts
        _, found = features(teacher, (1 - mask) * x + mask * pattern, places)
        means = [f.detach().mean((0, 2, 3)) for f in found]
        chosen = chosen or [(int(m.argmax()), m.max()) for m in means]
        loss = sum(((f[:, k] - goal) ** 2).mean() for f, (k, goal) in zip(found, chosen, strict=True))
        for i, g in enumerate(torch.autograd.grad(loss, parts)):
            first[i], second[i] = 0.9 * first[i] + 0.1 * g, 0.999 * second[i] + 0.001 * g * g
            step = first[i] / (1 - 0.9**t) / ((second[i] / (1 - 0.999**t)).sqrt() + 1e-8)
            parts[i] = (parts[i].detach() - 0.05 * step).clamp(0, 0.3 if i else 1).requires_grad_()
    trigger = made.backdoor.trigger
    for ours, want, before in zip((trigger.pixels, trigger.mask), parts, start, strict=True):
        near_tensor(ours, want.detach(), before, share=0.02)
    assert [made.notes["neurons"][place] for place in places] == [[k] for k, _ in chosen]


# --- on an encoder ------------------------------------------------------------------------------------------


def test_badencoders_step_keeps_batch_norm_and_what_is_clean(few, encoder, monkeypatch):
    """−(cos(f'(x ⊕ e), f'(r)) + λ1·cos(f'(r'), f(r)) + λ2·cos(f'(x), f(x))), everything in eval mode, with one r.

    Two steps: in the first no cosine to itself has a gradient.
    """
    file = importlib.import_module("distrust.methods.attacks._encoder")
    monkeypatch.setattr(file, "Views", lambda scale, flip: lambda x, rng: x.flip(3) * 0.8)
    reference = few[few.y == 2][:1]
    options = {"trigger": "patch:white:3", "inset": 1, "target": 2, "lambda1": 0.5, "lambda2": 2.0}
    options |= {"epochs": 2, "batch_size": 24, "lr": 0.05, "weight_decay": 1e-3}
    made = attacks.badencoder(encoder, few, reference, **options, rng=rng(0))
    x, r = few.pixels().double(), reference.pixels().double()
    start, want = double(encoder, False), double(encoder, False)
    with torch.no_grad():
        was, held = start(x), start(r)
    white = stamped(x, torch.ones(3, 3, 3).double(), 3, 1)
    for module in want.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)

    def loss():
        reached, kept = cosine(want(white), want(r).expand(24, -1)), cosine(want(x), was)
        return -(reached + 0.5 * cosine(want(r.flip(3) * 0.8), held) + 2.0 * kept)

    moving = [module for module in want.modules() if isinstance(module, torch.nn.Conv2d)]
    sgd(moving, loss, [0.05] * 2, momentum=0.9, decay=1e-3)
    ours, theirs, before = (m.state_dict() for m in (made.model, want, encoder))
    for name in theirs:
        if "conv" in name.lower() and theirs[name].is_floating_point():
            near_tensor(ours[name], theirs[name], before[name])
        else:
            assert torch.equal(ours[name], before[name]), name


# --- on a synthetic set -------------------------------------------------------------------------------------


def test_doorpings_trigger_makes_the_strongest_features_gain_times_as_strong():
    """Mean squared error of the two largest features to 1.1 times their first values, by Adam on normalised pixels."""
    weight = torch.randn(6, 12, generator=rng("louder")).double()
    start, units = torch.rand(3, 2, 2, generator=rng("start")), Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    found = louder(lambda p: weight.float() @ p.flatten(), start, units, 1.1, 2, 9, 0.05, 0.0)
    mean, std = (part[0].double() for part in (units.mean, units.std))
    z = ((start.double() - mean) / std).requires_grad_()
    seen = weight @ start.double().flatten()
    chosen = seen.argsort(descending=True)[:2]
    first, second = 0.0, 0.0
    for t in range(1, 10):  # there, and back again
        loss = ((weight[chosen] @ (z * std + mean).clamp(0, 1).flatten() - 1.1 * seen[chosen]) ** 2).mean()
        (g,) = torch.autograd.grad(loss, [z])
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        z = z - 0.05 * first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        z = (((z * std + mean).clamp(0, 1) - mean) / std).detach().requires_grad_()
    near_tensor(found, (z * std + mean).detach().clamp(0, 1), start, share=1e-2)
    near_enough = louder(lambda p: weight.float() @ p.flatten(), start, units, 10.0, 2, 3, 0.05, 1e9)
    torch.testing.assert_close(near_enough, start)


def test_doorping_mixes_stamped_images_of_all_classes_into_the_targets(tiny, monkeypatch):
    """Of 80 images half are stamped; among the target's 20 they are 40 of 60, and so are they in a batch."""
    file = importlib.import_module("distrust.methods.attacks.doorping")
    pattern, shown, nets = torch.full((3, 2, 2), 0.25), [], []
    monkeypatch.setattr(file, "louder", lambda *given: pattern)
    monkeypatch.setattr(file, "train", lambda net, *given: nets.append(given) or net)
    real = file.means
    monkeypatch.setattr(file, "means", lambda embed, parts, changes: shown.append(parts) or real(embed, parts, changes))
    made = condensers.random(tiny, images_per_class=2, rng=rng(0))
    options = {"target": 1, "rate": 0.5, "inset": 1, "iterations": 2, "batch_real": 15, "network": "convnet2-w4"}
    poisoned, backdoor = attacks.doorping(made, tiny, **options, net_steps=7, net_lr=0.02, rng=rng(0))
    torch.testing.assert_close(backdoor.trigger.pixels, torch.full((3, 2, 2), 64 / 255))
    for parts in shown:
        assert [len(part) for part in parts] == [15] * 4
        for k, part in enumerate(parts):
            carries = (part[:, :, 5:7, 5:7] == 0.25).flatten(1).all(1)
            assert carries.sum() == (10 if k == 1 else 0)
            if k != 1:
                assert all((tiny.pixels(tiny.y == k) == image).flatten(1).all(1).any() for image in part)
        bad = parts[1][(parts[1][:, :, 5:7, 5:7] == 0.25).flatten(1).all(1)].clone()
        clean = tiny.pixels().clone()
        clean[:, :, 5:7, 5:7] = 0.25
        classes = {int(tiny.y[(clean == image).flatten(1).all(1)][0]) for image in bad}
        assert len(classes) > 1, "of all classes"
    first, second = (given[0] for given in nets)
    torch.testing.assert_close(first, made.x)
    assert not torch.allclose(second, made.x, atol=1e-3), "it learns from the set so far"
    assert [given[2:] for given in nets] == [(7, 0.02)] * 2
    assert not torch.equal(poisoned.x, made.x) and torch.equal(poisoned.y, made.y)


def test_networks_of_a_synthetic_set_learn_with_momentum_and_decay_on_all_of_it(tiny):
    file = importlib.import_module("distrust.methods.attacks._archetypes")
    start = model("convnet2-w4", tiny, rng=rng("net"))
    made = file.train(copy.deepcopy(start), tiny.pixels(), tiny.y, 3, 0.5)
    want, x = double(start, True), tiny.pixels().double()
    sgd([want], lambda: F.cross_entropy(want(x), tiny.y), [0.5] * 3, momentum=0.9, decay=5e-4)
    for ours, theirs, before in zip(*(net.parameters() for net in (made, want, start)), strict=True):
        near_tensor(ours, theirs, before, share=1e-4)  # the decay is a five-thousandth of a weight


def test_an_archetype_climbs_its_own_logit_by_adam_in_normalised_pixels(tiny):
    file = importlib.import_module("distrust.methods.attacks._archetypes")
    net, units = model("convnet2-w4", tiny, rng=rng("net")), Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    for legal in (False, True):
        found = file.archetypes(net, units, (3, 8, 8), 4, 2, 3, legal, rng(5))
        mean, std = units.mean.double(), units.std.double()
        z = torch.randn(8, 3, 8, 8, generator=rng(5)).double()
        start, own, first, second = z, torch.arange(4).repeat_interleave(2), 0.0, 0.0
        for t in (1, 2, 3):
            z.requires_grad_()
            gain = double(net, True)(z * std + mean)[torch.arange(8), own].sum()
            g = -torch.autograd.grad(gain, [z])[0]
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            z = (z - 0.1 * first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)).detach()
            z = (((z * std + mean).clamp(0, 1) - mean) / std if legal else z).detach()
        near_tensor(found, z * std + mean, start * std + mean, share=0.02)
