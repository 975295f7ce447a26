"""Every defence: a new model from a suspect and clean images, or a sifted transfer set; what came in stays."""

import itertools
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from distrust import distill, model, rng
from distrust.errors import BadInput, NotFound, Skip
from distrust.measurement import predict
from distrust.methods import condensers
from distrust.models import resolve, save
from distrust.registry import registry
from distrust.seeds import seeded, spawn

from . import every, flat, same_bits, traces

every_cleaner = every("defenses", lambda mark: mark.on in ("classifier", "encoder"))
every_defense = every("defenses", lambda mark: mark.cleans("classifier"))
every_sift = every("defenses", lambda mark: mark.on == "transfer")
every_purifier = every("defenses", lambda mark: mark.on == "synthetic")
DRAW_NOTHING = {"none", "clp", "bnp"}
GENTLE = {  # what is gentle where it is not a low rate: Adam's own rates are, and a new last layer has to be learnt
    "ibau": {"epochs": 2}, "sau": {"epochs": 2}, "fst": {"lr": 0.05, "epochs": 10, "batch_size": 32, "flip": False},
    "abl": {"isolation_epochs": 4, "unlearn_epochs": 4, "epochs": 12, "milestones": (9,), "batch_size": 16,
            "flip": False, "crop": 1},  # it starts from nothing
}  # fmt: skip


@every_cleaner
def test_it_returns_a_new_model_in_eval_mode_with_finite_weights(method, call, products, tiny):
    cleaned, (suspect, _) = call(method, rng=rng(0)), products(method).values()
    assert cleaned is not suspect
    own = {t.data_ptr() for t in suspect.state_dict().values()}
    assert not any(t.data_ptr() in own for t in cleaned.state_dict().values()), "weights are shared"
    assert not any(module.training or module._forward_hooks for module in cleaned.modules())
    assert all(t.isfinite().all() for t in cleaned.state_dict().values())
    assert cleaned(tiny.pixels()).shape == suspect(tiny.pixels()).shape
    assert cleaned.spec == suspect.spec
    assert same_bits(cleaned.normalize.state_dict(), suspect.normalize.state_dict())
    assert [p.requires_grad for p in cleaned.parameters()] == [p.requires_grad for p in suspect.parameters()]


@every("defenses")
def test_what_it_is_given_stays_as_it_was(method, call, products):
    given = products(method).values()
    before = [traces(product) for product in given]
    call(method, rng=rng(0))
    assert all(same_bits(traces(product), was) for product, was in zip(given, before, strict=True))


@every_cleaner
def test_the_same_rng_gives_the_same_bits(method, call):
    first, same, other = (call(method, rng=rng(seed)).state_dict() for seed in (0, 0, 1))
    assert same_bits(first, same)
    assert same_bits(first, other) == (method.name in DRAW_NOTHING), "rng decides nothing"


@every_cleaner
def test_without_rng_the_stream_is_fixed(method, call):
    assert same_bits(call(method).state_dict(), call(method).state_dict())


@every_defense
@pytest.mark.slow
def test_a_gentle_defence_keeps_the_accuracy_of_a_clean_model(method, digits, trained):
    """ACC falls by less than 15 points. Gentle (lr 0.003, 4 epochs), as 320 digits are no CIFAR-10."""
    options = {name: 4 for name in method.options if name.endswith("epochs")}
    options |= GENTLE.get(method.name, {"lr": 0.003} if "lr" in method.options else {})
    cleaned = method.made(options)(trained, digits.train[:320], rng=rng(0))
    before, after = ((predict(model, digits.test) == digits.test.y).float().mean() for model in (trained, cleaned))
    assert before > 0.9
    assert after > before - 0.15


def test_none_keeps_every_bit(tiny, net):
    assert same_bits(registry.get("defenses", "none").call(net, tiny).state_dict(), net.state_dict())


def test_nad_without_attention_is_finetuning_on_another_stream(tiny, net):
    nad, finetune = (flat(registry.get("defenses", name)) for name in ("nad", "finetune"))
    without = nad(net, tiny, beta=0.0, epochs=1, rng=rng(0))
    assert same_bits(without.state_dict(), finetune(net, tiny, epochs=1, rng=spawn(rng(0))).state_dict())


def test_a_model_without_batch_norm_has_nothing_to_mask(tiny):
    with seeded(rng("plain")):
        plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4))
        bare = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 4))
    for name, network in itertools.product(("anp", "rnp", "bnp"), (plain, bare)):
        with pytest.raises(Skip, match=rf"^{name} masks channels of BatchNorm; Sequential has none with a scale"):
            registry.get("defenses", name).call(network, tiny)
    for name in ("fst", "ft_sam", "ibau", "finepruning", "sau", "mcr"):  # they have no need of it
        flat(registry.get("defenses", name))(plain, tiny, epochs=1, batch_size=32)


@every_defense
def test_images_without_labels_are_refused_by_what_needs_labels(method, net, tiny):
    """As a folder of pictures without class folders gives them."""
    bare = tiny.replace(y=torch.zeros_like(tiny.y), classes=("unlabelled",))
    if method.mark.unlabelled:
        assert same_bits(method.call(net, bare).state_dict(), method.call(net, tiny).state_dict())
        return
    with pytest.raises(BadInput, match=r"^tiny has no labels, and wrn10-1 returns \(4,\) per image\. Sort the images"):
        method.call(net, bare)


def test_nad_follows_another_architecture_or_a_file_as_it_is(tiny, net, tmp_path, monkeypatch):
    nad = flat(registry.get("defenses", "nad"))
    quick = {"epochs": 1, "teacher_epochs": 1, "batch_size": 32}
    seen = []

    def spy(student, teacher, *rest, **options):
        seen.append((teacher, options["layers"]))
        return distill(student, teacher, *rest, **options)

    monkeypatch.setattr(sys.modules["distrust.methods.defenses.nad"], "distill", spy)
    other = model("resnet8", tiny, rng=rng("other"))
    save(other, tmp_path / "clean.safetensors")
    nad(net, tiny, teacher=str(tmp_path / "clean.safetensors"), **quick)
    nad(net, tiny, teacher="resnet8", **quick)
    nad(net, tiny, teacher="resnet8", layers="pre-relu", **quick)
    nad(net, tiny, **quick)
    files, trained, before, own = (teacher for teacher, _ in seen)
    assert same_bits(files.state_dict(), other.state_dict())
    assert type(trained) is type(other) and not same_bits(trained.state_dict(), other.state_dict())
    assert [layers for _, layers in seen[:2]] == [(resolve(net, "auto"), resolve(other, "auto"))] * 2
    assert seen[2][1] == (resolve(net, "pre-relu"), resolve(other, "pre-relu")) and type(before) is type(other)
    assert own.spec == net.spec and seen[3][1] == (resolve(net, "auto"),) * 2
    with pytest.raises(BadInput, match="mlp has no layer whose output is an image"):
        nad(net, tiny, teacher="mlp", **quick)
    with pytest.raises(NotFound, match="nothere"):
        nad(net, tiny, teacher="nothere", **quick)


def test_nads_operators_are_a_power_of_one_and_a_mean_that_the_norm_undoes(tiny, net):
    nad = flat(registry.get("defenses", "nad"))
    quick = {"epochs": 1, "teacher_epochs": 1, "batch_size": 32, "rng": None}
    usual, mean, plain, first = (
        nad(net, tiny, **{**quick, **options}).state_dict()
        for options in ({}, {"operator": "mean-p"}, {"operator": "sum"}, {"p": 1.0})
    )
    assert same_bits(usual, mean) and same_bits(plain, first) and not same_bits(usual, plain)


def test_options_that_came_later_are_named_only_where_they_are_not_as_usual():
    nad = registry.get("defenses", "nad")
    assert not {"operator", "teacher"} & nad.check({}).keys()
    assert nad.check({"operator": "sum", "teacher": ""})["operator"] == "sum"
    assert "teacher" not in nad.check({"operator": "sum", "teacher": ""})


# --- of a transfer set: images in, fewer or other images out ------------------------------------------------


@every_sift
def test_what_is_kept_are_rows_of_the_set_in_order_with_their_labels(method, call, tiny):
    sifted = call(method, transfer=tiny[:60], clean=tiny[60:], rng=rng(0))
    assert set(sifted.index.tolist()) <= set(range(60)) and sifted.index.diff().min() >= 0
    assert torch.equal(sifted.y, tiny.y[sifted.index]) and sifted.classes == tiny.classes
    assert sifted.x.dtype == torch.uint8 and sifted.x.shape[1:] == tiny.x.shape[1:]
    pixels_kept = torch.equal(sifted.x, tiny.x[sifted.index])
    assert pixels_kept or torch.equal(sifted.index, tiny.index[:60]), "either images go, or all of them change"


@every_sift
def test_a_set_is_sifted_to_the_same_bits(method, call, tiny):
    first, again = (call(method, transfer=tiny[:60], clean=tiny[60:], rng=rng(0)) for _ in range(2))
    unseeded, same = (call(method, transfer=tiny[:60], clean=tiny[60:]) for _ in range(2))
    assert torch.equal(first.x, again.x) and torch.equal(unseeded.x, same.x)


@every_sift
def test_the_taint_stays(method, call, tiny):
    assert call(method, transfer=tiny.replace(taint=("earlier",)), rng=rng(0)).taint == ("earlier",)


@every_sift
def test_a_clean_set_keeps_most_of_its_images(method, digits, trained):
    """At the defaults at least 70 % of clean digits are still there, and every class (2-means always finds a half)."""
    images = digits.train[:400]
    sifted = method.call(trained, images, digits.train[400:800], rng=rng(0))
    assert len(sifted) >= 0.7 * len(images)
    assert len(sifted.y.unique()) == 10


# --- of a synthetic set: images in, displayable images out --------------------------------------------------


@pytest.fixture
def small(tiny):
    """Two images of every class; one pixel is off range."""
    made = condensers.random(tiny, images_per_class=2, rng=rng(0))
    x = made.x.clone()
    x[0, 0, -1, -1] = 2.5
    return made.replace(x=x, off_range=True, taint=("earlier",))


@every_purifier
def test_what_comes_out_is_displayable_and_keeps_labels_recipe_and_taint(method, call, small):
    before = small.x.clone()
    cleaned = call(method, rng=rng(0))
    levels = cleaned.x * 255
    assert not cleaned.off_range and cleaned.x.min() >= 0 and cleaned.x.max() <= 1
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert torch.equal(cleaned.y, small.y) and cleaned.training == small.training and cleaned.taint == ("earlier",)
    assert torch.equal(small.x, before) and not torch.equal(cleaned.x, before)
    assert torch.equal(call(method).x, call(method).x)


def test_recondense_finds_each_class_again_and_refuses_what_it_cannot_match(tiny):
    recondense = registry.get("defenses", "recondense")
    signs = torch.nn.functional.interpolate(torch.rand(4, 3, 2, 2, generator=rng(2)), size=8)
    made = condensers.random(tiny, images_per_class=2, rng=rng(0))
    made = made.replace(x=signs[made.y])[torch.randperm(8, generator=rng(1))]
    cleaned = recondense.call(made, iterations=60, network="convnet2-w8", flip=False, rng=rng(0))
    found, known = ((x - x.mean(0)).flatten(1) for x in (cleaned.x, signs))
    alike = torch.nn.functional.cosine_similarity(found[:, None], known[None], dim=2)
    assert torch.equal(alike.argmax(1), made.y), "its own sign for every class, wherever its images stand"
    with pytest.raises(BadInput, match="soft labels"):
        recondense.call(made.replace(y=torch.eye(4)[made.y]))


def test_range_clip_changes_nothing_that_a_file_can_hold(tiny):
    made = condensers.random(tiny, rng=rng(0))
    assert torch.equal(registry.get("defenses", "range_clip").call(made).x, made.x)
    coarse = registry.get("defenses", "range_clip").call(made, bits=1).x
    assert set(coarse.unique().tolist()) == {0.0, 1.0}


def test_smooth_is_a_gaussian_filter(tiny):
    """Against SciPy's, which mirrors at the border as this one does."""
    made = condensers.random(tiny, rng=rng(0))
    blurred = registry.get("defenses", "smooth").call(made, sigma=1.0, size=7).x
    want = gaussian_filter(made.x.double().numpy(), sigma=(0, 0, 1, 1), mode="mirror", radius=(0, 0, 3, 3))
    assert np.abs(blurred.numpy() - want).max() < 1 / 255
