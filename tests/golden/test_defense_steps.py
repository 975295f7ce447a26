"""Defences of models: their first steps from fixed weights against the papers' losses, in float64.

Sources: NAD, arXiv 2101.05930, and its released code (github.com/bboylyg/NAD): CE + Σ β_l · mean of squared differences
of attention maps, SGD with Nesterov's momentum 0.9 and weight decay 1e-4; MIMIC, arXiv 2406.03508, and its released
code; BCU, arXiv 2211.12044; CLP, arXiv 2208.03111, equation for channels with BatchNorm; SimCLR, arXiv 2002.05709,
equation 1; MINE, arXiv 1801.04062.

Batches hold all images, so that their order does not matter; views, the projector and random starts are put in place.
"""

import copy
import importlib
import math

import numpy as np
import pytest
import torch
from tests.contracts import flat
from tests.golden.steps import EXACT, PLAIN, adam, double, features, near, sgd
from torch import nn

from distrust import model, rng
from distrust.methods import defenses
from distrust.methods.defenses._information import information, informed

BLOCKS = ["block1", "block2", "block3"]
UNLABELLED = importlib.import_module("distrust.methods.defenses._unlabelled")


@pytest.fixture
def few(tiny):
    """24 images in one batch."""
    return tiny[:24]


def cross_entropy(logits, y):
    return -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(y)), y].mean()


def attention(ours, theirs, weights, p=2):
    """Σ_l w_l · mean over images and positions of the squared difference of Σ_c |F|^p, divided by its norm."""
    total = 0.0
    for w, a, b in zip(weights, ours, theirs, strict=True):
        maps = [(f.abs() ** p).sum(1).flatten(1) for f in (a, b)]
        one, two = (m / ((m * m).sum(1, keepdim=True).sqrt() + 1e-6) for m in maps)
        total = total + w * ((one - two) ** 2).mean()
    return total


def cosine(a, b):
    return ((a * b).sum(1) / ((a * a).sum(1).sqrt() * (b * b).sum(1).sqrt())).mean()


def contrast(z, temperature):
    """Of rows i and B+i, which are one image: −log of its share among all others."""
    z, n = z / (z * z).sum(1, keepdim=True).sqrt(), len(z)
    total = 0.0
    for i in range(n):
        likeness = torch.stack([z[i] @ z[j] / temperature for j in range(n) if j != i])
        total = total + likeness.logsumexp(0) - z[i] @ z[(i + n // 2) % n] / temperature
    return total / n


# --- classifiers --------------------------------------------------------------------------------------------


def test_finetuning_is_three_steps_on_the_labels_of_which_the_third_is_ten_times_smaller(few, net):
    made = flat(defenses.finetune)(net, few, **PLAIN, epochs=3, batch_size=24, rng=rng(0))
    want, x = double(net, True), few.pixels().double()
    sgd([want], lambda: cross_entropy(want(x), few.y), [0.1, 0.1, 0.01], momentum=0.9, decay=1e-4, nesterov=True)
    near(made, want, net)


@pytest.mark.parametrize("p", [2.0, 3.0])
def test_nad_follows_a_finetuned_copy_in_eval_mode_and_the_labels(few, net, p):
    beta, options = [500.0, 1000.0, 4000.0], PLAIN | {"lr": 0.01, "batch_size": 24}
    made = flat(defenses.nad)(net, few, beta=beta, p=p, teacher_epochs=2, epochs=1, **options, rng=rng(0))
    teacher, student, x = double(net, True), double(net, True), few.pixels().double()
    rule = {"momentum": 0.9, "decay": 1e-4, "nesterov": True}
    sgd([teacher], lambda: cross_entropy(teacher(x), few.y), [0.01, 0.01], **rule)
    _, theirs = features(teacher.eval(), x, BLOCKS)

    def loss():
        logits, ours = features(student, x, BLOCKS)
        return cross_entropy(logits, few.y) + attention(ours, [f.detach() for f in theirs], beta, p)

    sgd([student], loss, [0.01], **rule)
    near(made, student, net)
    assert attention(features(double(net, False), x, BLOCKS)[1], theirs, beta, p) > 1e-3, "there is something to follow"


# --- encoders -----------------------------------------------------------------------------------------------


class Two:
    """Views that nobody draws: the images, then their mirror images in fainter colours, and so on."""

    def __init__(self, flip: bool) -> None:
        self.asked = 0

    def __call__(self, x, rng):
        self.asked += 1
        x = x.double() / 255
        return (x if self.asked % 2 else x.flip(3) * 0.7 + 0.1).float()


@pytest.fixture
def put(monkeypatch, encoder):
    """Puts the views, the projector and, where it is asked for, the fresh encoder in place."""
    other = model("wrn10-1", classes=4, size=8, head=False, rng=rng("fresh"))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        project = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8))
    shapes = []
    monkeypatch.setattr(UNLABELLED, "Views", Two)
    monkeypatch.setattr(UNLABELLED, "projector", lambda *shape: shapes.append(shape) or copy.deepcopy(project))

    def put(name):
        file = importlib.import_module(f"distrust.methods.defenses.{name}")
        if hasattr(file, "fresh"):
            monkeypatch.setattr(file, "fresh", lambda encoder, rng: copy.deepcopy(other))
        return other, project, shapes

    return put


def views(images):
    x = images.pixels().double()
    return x, x.flip(3) * 0.7 + 0.1


STEP = EXACT | {"optimizer": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "batch_size": 24}


def test_nad_for_encoders_follows_a_copy_that_learnt_from_contrast_and_contrasts_on(few, encoder, put):
    _, project, shapes = put("nad_encoder")
    options = STEP | {"lr": 1e-3, "temperature": 0.2, "teacher_epochs": 2, "epochs": 1, "beta": 300.0, "p": 3.0}
    made = flat(defenses.nad_encoder)(encoder, few, **options, rng=rng(0))
    teacher, student, x = double(encoder, True), double(encoder, True), torch.cat(views(few))
    head = double(project, True)
    sgd([teacher, head], lambda: contrast(head(teacher(x)), 0.2), [1e-3] * 2)
    _, theirs = features(teacher.eval(), x[:24], BLOCKS)
    head = double(project, True)  # another one

    def loss():
        z, ours = features(student, x, BLOCKS)
        return contrast(head(z), 0.2) + attention([f[:24] for f in ours], [f.detach() for f in theirs], [300.0] * 3, 3)

    sgd([student, head], loss, [1e-3])
    near(made, student, encoder)
    assert shapes == [(64, 512, 128)] * 2


@pytest.mark.parametrize(("name", "from_scratch"), [("finetune_ssl", False), ("scratch", True)])
def test_contrast_alone_moves_encoder_and_projector_by_adam(few, encoder, put, name, from_scratch):
    other, project, _ = put(name)
    options = {"temperature": 0.2, "epochs": 2, "lr": 1e-3, "batch_size": 24}
    made = flat(getattr(defenses, name))(encoder, few, **options, rng=rng(0))
    start = other if from_scratch else encoder
    want, head, x = double(start, True), double(project, True), torch.cat(views(few))
    adam([want, head], lambda: contrast(head(want(x)), 0.2), 2, 1e-3, 1e-6)
    near(made, want, start, share=0.02)  # by how little a gradient's sign may hang on


@pytest.mark.parametrize("epochs", [1, 2])
def test_mimic_is_contrast_weighted_attention_and_the_cosine(few, encoder, put, monkeypatch, epochs):
    """w_l = 1000 + 10000 · I_l / Σ I, I the teacher's."""
    other, project, _ = put("mimic")
    asked = []

    def told(source, paths, clean, **options):
        asked.append((source, paths, len(clean)))
        return [1.0, 0.0, 3.0]

    monkeypatch.setattr(importlib.import_module("distrust.methods.defenses.mimic"), "informed", told)
    options = STEP | {"contrast": 0.5, "attention": 0.2, "clone": 3.0, "temperature": 0.2, "lr": 1e-3}
    made = flat(defenses.mimic)(encoder, few, **options, epochs=epochs, rng=rng(0))
    teacher, student, x = double(encoder, False), double(other, True), torch.cat(views(few))
    head = double(project, True)
    goal, theirs = features(teacher, x[:24], BLOCKS)
    goal, theirs = goal.detach(), [f.detach() for f in theirs]

    def loss():
        z, ours = features(student, x, BLOCKS)
        follow = attention([f[:24] for f in ours], theirs, [3500.0, 1000.0, 8500.0])
        return 0.5 * contrast(head(z), 0.2) + 0.2 * follow - 3.0 * cosine(z[:24], goal)

    sgd([student, head], loss, [1e-3] * epochs)
    near(made, student, other, share=1e-2 if epochs > 1 else 1e-3)
    assert asked == [(encoder, BLOCKS, 24)]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_distilled_encoder_follows_the_features_and_the_attention(few, encoder, put, metric):
    other, *_ = put("distill_encoder")
    options = STEP | {"metric": metric, "attention": 200.0, "lr": 1e-3, "epochs": 1}
    made = flat(defenses.distill_encoder)(encoder, few, **options, rng=rng(0))
    student, x = double(other, True), views(few)[0]
    goal, theirs = features(double(encoder, False), x, BLOCKS)

    def loss():
        z, ours = features(student, x, BLOCKS)
        gap = -cosine(z, goal.detach()) if metric == "cosine" else ((z - goal.detach()) ** 2).mean()
        return gap + attention(ours, [f.detach() for f in theirs], [200.0] * 3)

    sgd([student], loss, [1e-3])
    near(made, student, other)


def test_bcu_follows_the_suspects_features_from_weights_that_were_drawn_anew(few, encoder, put):
    """With every weight drawn anew; BatchNorm is the suspect's."""
    other, *_ = put("bcu")
    made = flat(defenses.bcu)(encoder, few, first=1.0, last=1.0, **STEP, lr=0.05, epochs=1, rng=rng(0))
    start = copy.deepcopy(encoder)
    with torch.no_grad():
        for old, new in zip(start.modules(), other.modules(), strict=True):
            if isinstance(old, nn.Conv2d | nn.Linear):
                old.weight.copy_(new.weight)
    student, x = double(start, True), views(few)[0]
    goal = double(encoder, False)(x).detach()
    sgd([student], lambda: -cosine(student(x), goal), [0.05])
    near(made, student, start)
    assert cosine(double(made, True)(x), goal) > cosine(double(start, True)(x), goal), "nearer than it was"


# --- channels, information ----------------------------------------------------------------------------------


@pytest.mark.parametrize("u", [0.2, 0.7, 1.5])
def test_clp_silences_the_channels_whose_bound_is_an_outlier(tiny, encoder, u):
    """σ_max of the kernel as a matrix [inputs, height · width], times |γ| / √(var + ε); mean + u·std of the layer."""
    draw = rng("clp")
    pairs = {"block1.layer.0.bn2": "block1.layer.0.conv1", "block2.layer.0.bn2": "block2.layer.0.conv1",
             "block3.layer.0.bn2": "block3.layer.0.conv1"}  # fmt: skip
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.randn(module.num_features, generator=draw))
                module.running_var.copy_(torch.rand(module.num_features, generator=draw) * 4 + 0.1)
                module.bias.fill_(1.0)
    made = defenses.clp(encoder, tiny, u=u)
    for norm, convolution in pairs.items():
        layer, kernels = encoder.get_submodule(norm), encoder.get_submodule(convolution).weight.detach().double()
        sizes = [np.linalg.svd(kernel.reshape(len(kernel), -1))[1][0] for kernel in kernels.numpy()]
        gain = np.abs(layer.weight.detach().double().numpy()) / np.sqrt(layer.running_var.double().numpy() + 1e-5)
        bound = np.array(sizes) * gain
        out = bound > bound.mean() + u * bound.std(ddof=1)
        assert 0 < out.sum() < len(out) / 2
        for part in ("weight", "bias"):
            silent = getattr(made.get_submodule(norm), part) == 0
            assert silent.tolist() == out.tolist(), norm


def test_clps_norm_belongs_to_the_last_convolution_of_its_width_that_ran(tiny):
    """Two convolutions of one width in a row: the second one's kernels count."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        body[0].weight[1] *= 40
        body[1].weight[6] *= 40
        body[2].bias.fill_(1.0)
    made = defenses.clp(body, tiny, u=2.0)
    assert (made[2].weight == 0).nonzero().flatten().tolist() == [6]


def test_information_is_asked_of_layers_in_eval_mode_and_features_of_length_one(few, encoder, monkeypatch):
    given = []
    file = importlib.import_module("distrust.methods.defenses._information")
    monkeypatch.setattr(file, "information", lambda layer, output, **options: given.append((layer, output)) or 1.5)
    assert informed(encoder, BLOCKS[:2], few, epochs=1, batch_size=8, rng=rng(0)) == [1.5, 1.5]
    out, seen = features(double(encoder, False), few.pixels().double(), BLOCKS[:2])
    for (layer, output), want in zip(given, seen, strict=True):
        torch.testing.assert_close(layer.double(), want, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(output.double(), out / (out * out).sum(1, keepdim=True).sqrt(), rtol=1e-3, atol=1e-4)


def test_the_bound_is_the_mean_of_the_last_ten_epochs_where_a_negative_step_counts_as_0():
    f, z = torch.randn(2, 8, 3, generator=rng("last"))
    heard = []

    def listen(module, inputs, output):
        if isinstance(module, nn.Sequential):  # T of a batch of four, joint and product
            heard.append(output.detach().double().flatten())

    hook = torch.nn.modules.module.register_module_forward_hook(listen)
    try:
        told = information(f, z, epochs=13, batch_size=4, rng=rng(0))
    finally:
        hook.remove()
    steps = [float(t[:4].mean() - math.log(t[4:].exp().mean())) for t in heard]
    assert len(steps) == 26 and min(steps) < 0
    assert told == pytest.approx(sum(max(s, 0.0) for s in steps[-20:]) / 20, abs=1e-6)
    assert abs(told - sum(max(s, 0.0) for s in steps) / 26) > 1e-3
