"""Every defence of an encoder: a new encoder from a suspect and clean images without labels; what came in stays."""

import copy
import importlib

import pytest
import torch
from torch.nn import functional as F

from distrust import model, rng
from distrust.errors import BadInput, Skip
from distrust.methods.defenses._channels import makers
from distrust.methods.defenses._information import Critic, information
from distrust.methods.defenses._unlabelled import fresh, learn
from distrust.methods.defenses.mimic import layer_weights
from distrust.models import resolve, taps
from distrust.registry import registry
from distrust.seeds import seeded, spawn
from distrust.training import features

from . import every, quick, same_bits

every_defense = every("defenses", lambda mark: mark.on == "encoder")
data_free = {"clp"}


def run(method, encoder, clean, seed=0, **options):
    return method.made(quick(method) | options)(encoder, clean, rng=rng(seed))


def call(name, *args, **options):
    return run(registry.get("defenses", name), *args, **options)


@every_defense
def test_it_looks_at_no_labels(method, tiny, encoder):
    shuffled = tiny.replace(y=tiny.y[torch.randperm(80, generator=rng("labels"))])
    assert not torch.equal(shuffled.y, tiny.y)
    assert same_bits(*(run(method, encoder, images).state_dict() for images in (tiny, shuffled)))


@every("defenses", lambda mark: mark.on == "encoder" and not mark.also)
def test_a_classifier_is_refused(method, tiny, net):
    with pytest.raises(BadInput, match=r"wrn10-1 is a classifier of 4 classes"):
        run(method, net, tiny)


@every_defense
def test_fewer_images_than_a_batch_are_refused_by_what_trains(method, tiny, encoder):
    if method.name in data_free:
        assert same_bits(run(method, encoder, tiny[:1]).state_dict(), run(method, encoder, tiny).state_dict())
        return
    with pytest.raises(BadInput, match=r"tiny has 31 images, fewer than a batch of 32\."):
        run(method, encoder, tiny[:31])


def test_what_follows_the_suspect_comes_nearer_to_it(digits):
    """Fifty steps take a student with random weights closer to its teacher; without a teacher nothing does."""
    teacher, clean = model("wrn10-1", digits.train, head=False, rng=rng("teacher")), digits.train[:320]
    with torch.no_grad():
        teacher.train()(clean.pixels())  # gives BatchNorm its statistics
    options = {"batch_size": 32, "epochs": 5, "lr": 0.01, "flip": False}
    more = {"mimic": {"contrast": 0.0, "attention": 0.0}, "distill_encoder": {}, "scratch": {}}
    likeness = {}
    for name, extra in more.items():
        student = call(name, teacher, clean, **options, **extra)
        likeness[name] = float(F.cosine_similarity(features(student, clean), features(teacher, clean)).mean())
    assert min(likeness["mimic"], likeness["distill_encoder"]) > likeness["scratch"] + 0.02


def test_no_passes_from_scratch_leave_an_encoder_that_has_learnt_nothing(tiny, encoder):
    made = call("scratch", encoder, tiny, epochs=0)
    assert same_bits(made.state_dict(), fresh(encoder, spawn(rng(0))).state_dict()) and not made.training


# --- what they share ----------------------------------------------------------------------------------------


def test_a_fresh_encoder_has_random_weights_and_the_suspects_normalisation(tiny, encoder):
    made = fresh(encoder, rng(0))
    assert not torch.equal(made.conv1.weight, encoder.conv1.weight)
    assert torch.equal(made.normalize.mean, encoder.normalize.mean) and made.normalize.mean.any()
    del encoder.spec
    with pytest.raises(BadInput, match="does not say how it was built"):
        fresh(encoder, rng(0))


def test_a_match_sees_one_view_of_both_and_the_teacher_in_eval_mode(tiny, encoder):
    seen = []

    def match(ours, theirs):
        seen.append((ours, theirs))
        return (ours.logits - theirs.logits).square().mean()

    learn(encoder, tiny, encoder, match, ["block2"], rng=rng(0), epochs=1, lr=1e-3, batch_size=32)
    learn(encoder, tiny, encoder, match, ["block2"], contrast=0.0, rng=rng(0), epochs=1, lr=1e-3, batch_size=32)
    for ours, theirs in seen:
        assert ours.logits.shape == theirs.logits.shape == (32, 64) and list(ours.features) == ["block2"]
        assert ours.features["block2"].shape == theirs.features["block2"].shape
        assert ours.logits.requires_grad and not theirs.logits.requires_grad
        assert not torch.allclose(ours.logits, theirs.logits), "the student is in train mode, the teacher is not"
    assert len(seen) == 4


# --- mutual information and mimic ---------------------------------------------------------------------------


def test_a_copy_is_more_informative_than_noise_and_no_information_is_negative():
    """MINE on 256 Gaussian vectors: I(z; z) is large, I(noise; z) is 0 up to what the critic learns by heart."""
    z, noise = torch.randn(2, 256, 4, generator=rng("mine"))
    copied, none = (information(f, z, epochs=15, rng=rng(0)) for f in (z.view(256, 4, 1, 1), noise))
    assert copied > none + 0.3
    assert 0 <= none < 0.3
    assert copied == information(z, z, epochs=15, rng=rng(0))


def test_the_bound_is_donsker_varadhans():
    """One step from a critic known by its rng: mean T(f, z) − log mean exp T(f, z'), in float64."""
    f, z = torch.randn(2, 6, 3, generator=rng("bound"))
    heard = {}

    def listen(module, inputs, output):
        if getattr(output, "shape", None) == (12, 1):
            heard["t"] = output.detach().double().flatten()

    hook = torch.nn.modules.module.register_module_forward_hook(listen)
    try:
        told = information(f, z, epochs=1, batch_size=6, rng=rng(0))
    finally:
        hook.remove()
    joint, product = heard["t"].chunk(2)
    want = float(joint.mean() - product.exp().mean().log())
    assert told == pytest.approx(max(want, 0), abs=1e-6)


def test_the_critic_is_one_network_of_layer_and_output():
    draw = rng("critic")
    f, z, other = torch.randn(5, 3, generator=draw), torch.randn(5, 2, generator=draw), torch.tensor([3, 0, 4, 1, 2])
    with seeded(draw):
        critic = Critic(3, 2)
    both = torch.cat([critic.f.weight, critic.z.weight], 1)

    def whole(z):
        return critic.rest(torch.cat([f, z], 1) @ both.T + critic.f.bias).flatten()

    joint, product = critic(f, z, other)
    torch.testing.assert_close(joint, whole(z))
    torch.testing.assert_close(product, whole(z[other]))


def test_weights_are_those_of_the_released_code_and_equal_without_information():
    assert layer_weights([1.0, 3.0]) == [3500.0, 8500.0]
    assert layer_weights([0.0, 0.0, 0.0, 0.0]) == [3500.0] * 4
    assert layer_weights([]) == []


def test_mimic_uniform_weighs_equally_and_estimates_nothing(tiny, encoder, monkeypatch):
    weighed, asked = [], []

    def attention_loss(ours, theirs, weights):
        weighed.append(weights)
        return ours.logits.new_zeros(())

    def informed(source, paths, *rest, **options):
        asked.append(source)
        return [1.0, 0.0, 0.0][: len(paths)]

    file = importlib.import_module("distrust.methods.defenses.mimic")
    monkeypatch.setattr(file, "attention_loss", attention_loss)
    monkeypatch.setattr(file, "informed", informed)
    for estimate_on in ("uniform", "teacher", "student"):
        call("mimic", encoder, tiny, estimate_on=estimate_on, attention=2.0)
    assert weighed[0] == pytest.approx([2 * (1000 + 10000 / 3)] * 3)
    assert weighed[-1] == [22000.0, 2000.0, 2000.0]
    assert asked[0] is encoder and asked[1] is not encoder and len(asked) == 2


def test_mimic_leaves_out_terms_of_weight_zero_but_not_all(tiny, encoder):
    whole = call("mimic", encoder, tiny)
    for name in ("contrast", "attention", "clone"):
        assert not same_bits(call("mimic", encoder, tiny, **{name: 0.0}).state_dict(), whole.state_dict())
    with pytest.raises(BadInput, match="nothing to learn"):
        call("mimic", encoder, tiny, contrast=0.0, attention=0.0, clone=0.0)


# --- weights drawn anew, channels removed -------------------------------------------------------------------


def test_bcu_draws_the_stated_shares_anew(tiny, encoder, monkeypatch):
    started = []
    file = importlib.import_module("distrust.methods.defenses.bcu")
    monkeypatch.setattr(file, "learn", lambda student, *rest, **options: started.append(student) or student)
    call("bcu", encoder, tiny, first=0.1, last=0.6)
    before, after = (dict(m.named_parameters()) for m in (encoder, started[0]))
    share = {name: float((after[name] != before[name]).float().mean()) for name in before}
    assert all(share[name] == 0 for name in share if "bn" in name)
    assert share["conv1.weight"] == pytest.approx(0.1, abs=0.05)
    assert share["block3.layer.0.conv1.weight"] == pytest.approx(0.1 * 6 ** (6 / 8), abs=0.02)
    assert share["block3.layer.0.convShortcut.weight"] == pytest.approx(0.6, abs=0.04)


@pytest.mark.parametrize("name", ["wrn10-1", "resnet8", "resnet18", "convnet2-w8", "pyramidnet20-a12"])
@pytest.mark.parametrize("epochs", [0, 1])
def test_prune_removes_the_stated_share_of_channels_for_good(tiny, name, epochs):
    encoder = model(name, tiny, head=False, rng=rng("prune"))
    (*_, end) = resolve(encoder, "pre-relu")
    pruned = call("prune", encoder, tiny, share=0.25, epochs=epochs)
    with torch.no_grad(), taps(encoder.eval(), [end]) as read, taps(pruned, [end]) as read_pruned:
        before = read(tiny.pixels()).features[end].relu().mean((0, 2, 3))
        left = read_pruned(tiny.pixels()).features[end].relu().mean((0, 2, 3))
    gone = left == 0
    assert int(gone.sum()) - int((before == 0).sum()) <= round(0.25 * len(gone)) <= int(gone.sum())
    assert before[gone].max() <= before[~gone].min(), "the most dormant ones went"


def test_prune_without_a_share_or_training_changes_nothing_and_takes_few_images(tiny, encoder):
    assert same_bits(call("prune", encoder, tiny, share=0.0, epochs=0).state_dict(), encoder.state_dict())
    call("prune", encoder, tiny[:3], epochs=0)


def test_the_makers_of_a_channel_are_what_is_summed(tiny):
    encoder = model("resnet8", tiny, head=False)
    paths = {module: path for path, module in encoder.named_modules()}
    found = makers(encoder, resolve(encoder, "pre-relu")[-1], tiny.x.shape[1:])
    assert {paths[module] for module in found} == {"layer3.0.bn2", "layer3.0.downsample.1"}


def test_clp_finds_a_channel_that_was_blown_up_and_leaves_the_rest(tiny, encoder):
    assert same_bits(call("clp", encoder, tiny).state_dict(), encoder.state_dict())
    with torch.no_grad():
        encoder.block2.layer[0].conv1.weight[5] *= 50
        encoder.block2.layer[0].bn2.bias[:] = 1
    want = copy.deepcopy(encoder.state_dict())
    for part in ("weight", "bias"):
        want[f"block2.layer.0.bn2.{part}"][5] = 0
    assert same_bits(call("clp", encoder, tiny).state_dict(), want)


def test_clp_skips_what_has_no_batch_norm(tiny):
    with pytest.raises(Skip, match="convnet2-w4 has none"):
        call("clp", model("convnet2-w4", tiny, head=False), tiny)
