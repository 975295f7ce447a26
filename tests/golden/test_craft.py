"""PGD, FGSM and Carlini and Wagner's attack on a linear model, where their steps can be written down by hand."""

import importlib

import numpy as np
import pytest
import torch
from tests.golden.steps import double

from distrust import rng
from distrust.data import Augment
from distrust.measurement import predict
from distrust.methods import attacks
from distrust.methods.attacks._craft import anywhere, cw, pgd, views_of

WEIGHT = torch.tensor([[1.0, -2.0, 0.5, 0.0], [-1.0, 1.0, 1.0, 0.2], [0.3, 0.0, -1.0, 2.0]])  # 3 classes, 4 pixels


def logits(x):
    """One view of [B,1,2,2] images under a linear model."""
    return (x.flatten(1) @ WEIGHT.T.to(x))[None]


def images(batch=5):
    return torch.rand(batch, 1, 2, 2, generator=rng("craft")) * 0.6 + 0.2


def numpy_gradient(x, target):
    """∇_x CE(Wx, target) in float64: Wᵀ(softmax(Wx) − e_target)."""
    w, x = WEIGHT.double().numpy(), x.flatten(1).double().numpy()
    z = x @ w.T
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[:, target] -= 1
    return (p @ w).reshape(-1, 1, 2, 2)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_one_step_as_large_as_the_bound_is_targeted_fgsm(target):
    x = images()
    expected = np.clip(x.double().numpy() - 0.1 * np.sign(numpy_gradient(x, target)), 0, 1)
    np.testing.assert_allclose(pgd(logits, x, target, bound=0.1, steps=1, size=0.1).numpy(), expected, rtol=1e-5)


def test_pgd_is_projected_gradient_descent():
    x = images()
    expected = x.double().numpy()
    for _ in range(7):
        moved = expected - 0.03 * np.sign(numpy_gradient(torch.from_numpy(expected), 1))
        expected = np.clip(np.clip(moved, x.numpy() - 0.08, x.numpy() + 0.08), 0, 1)
    np.testing.assert_allclose(pgd(logits, x, 1, bound=0.08, steps=7, size=0.03).numpy(), expected, rtol=1e-5)


def test_pgd_that_stops_leaves_images_alone_on_which_the_target_is_said():
    x = images(50)
    there = logits(x)[0].argmax(1) == 1
    assert 0 < there.sum() < 50
    found = pgd(logits, x, 1, bound=1.0, steps=40, size=0.05, stop=True)
    assert torch.equal(found[there], x[there])
    assert (logits(found)[0].argmax(1) == 1).all()
    further = pgd(logits, x, 1, bound=1.0, steps=40, size=0.05)
    assert (found - x).square().sum() < (further - x).square().sum()


def test_every_view_counts():
    """A second view that sees the image upside down pulls the other way."""
    x = images(20)

    def both(x):
        return torch.cat([logits(x), logits(x.flip(2))])

    found = pgd(both, x, 2, bound=1.0, steps=60, size=0.05, stop=True)
    assert (both(found).argmax(2) == 2).all()


def test_a_restart_begins_anywhere_in_the_ball():
    x = images(200)
    start = anywhere(x, 0.1, rng(0)) - x
    assert start.abs().max() <= 0.1 and start.abs().max() > 0.09 and abs(start.mean()) < 0.01


def test_cw_goes_hardly_further_than_the_border():
    """For two classes the nearest point of the border is known: the distance is lead / ‖w_other − w_target‖."""
    weight = torch.tensor([[2.0, -1.0, 0.5, 0.3], [-1.0, 1.0, 1.0, 0.1]])
    x = images(8) * 0.5 + 0.25
    x = x[(x.flatten(1) @ weight.T).diff(dim=1)[:, 0] < 0]  # not the target yet
    assert len(x) >= 2

    def two(x):
        return (x.flatten(1) @ weight.T)[None]

    found = cw(two, x, 1, constant=10.0, steps=400)
    assert (two(found)[0].argmax(1) == 1).all()
    lead = -(x.flatten(1) @ weight.T).diff(dim=1)[:, 0]
    nearest = lead / (weight[0] - weight[1]).norm()
    went = (found - x).flatten(1).norm(dim=1)
    assert ((went > nearest * 0.999) & (went < nearest * 1.1 + 0.005)).all()


def test_cw_leads_by_its_confidence():
    def lead(**options):
        z = logits(cw(logits, images(30), 1, constant=100.0, steps=300, **options))[0]
        return (z[:, 1] - z[:, [0, 2]].amax(1)).mean()

    assert lead(confidence=0.5) > lead() > 0


def test_views_are_the_images_moved_ones_and_scipys_median():
    from scipy.ndimage import median_filter

    x, moves = torch.rand(2, 3, 9, 9, generator=rng(0)), Augment(flip=False, crop=2)
    assert [len(views_of(x, words, moves, rng(1))) for words in ("nothing", "moved", "median", "both")] == [1, 2, 2, 3]
    plain, moved, median = views_of(x, "both", moves, rng(1))
    assert torch.equal(plain, x) and torch.equal(moved, moves(x, rng(1)))
    inner = median_filter(x.numpy(), size=(1, 1, 3, 3))[..., 1:-1, 1:-1]
    np.testing.assert_allclose(median[..., 1:-1, 1:-1].numpy(), inner, rtol=1e-6)


def test_cw_minds_the_view_that_is_farthest_from_the_target():
    """Two views, of a pixel each: the first says the target from the start, and the second has to be brought there."""

    def two(x):
        target = 10 * (x.flatten(1)[:, :2] - 0.5).T[..., None]
        return torch.cat([torch.zeros_like(target), target], 2)

    x = torch.tensor([0.9, 0.3, 0.5, 0.5]).view(1, 1, 2, 2)
    found = cw(two, x, 1, constant=10.0, steps=200).flatten()
    assert found[1] > 0.5 and (found[[0, 2, 3]] - x.flatten()[[0, 2, 3]]).abs().max() < 1e-3


@pytest.mark.parametrize(("paste", "through"), [(True, "nothing"), (False, "nothing"), (True, "median")])
def test_the_target_must_be_said_of_the_image_with_the_trigger_in_place(tiny, net, monkeypatch, paste, through):
    seen = []
    file = importlib.import_module("distrust.methods.attacks.transfer_poison")
    monkeypatch.setattr(file, "pgd", lambda logits, x, target, **options: seen.append((x, logits(x))) or x)
    options = {"trigger": "patch:white:4", "inset": 2, "rate": 0.2, "restarts": 0, "paste": paste, "through": through}
    attacks.transfer_poison(net, tiny, **options, rng=rng(0))
    ((x, said),) = seen
    shown = x.double().clone()
    if paste:
        shown[:, :, 2:6, 2:6] = 1.0
    want = double(net, False)(shown)
    torch.testing.assert_close(said[0].double(), want.detach(), rtol=0.02, atol=0.02)
    assert len(said) == (2 if through == "median" else 1)
    assert paste or (double(net, False)(x.double()) - want).abs().max() == 0


# --- the attack on a trained teacher ------------------------------------------------------------------------

STRONG = {"inset": 1, "epsilon": 48, "step_size": 8.0, "rate": 0.1}


def changed(images, before):
    return (images.x != before.x).flatten(1).any(1)


@pytest.fixture(scope="module")
def poisoned(digits, trained):
    return attacks.transfer_poison(trained, digits.train, **STRONG, rng=rng(0))


def test_the_clean_teacher_says_the_target_on_the_poisons_and_not_on_the_trigger(poisoned, digits, trained):
    images, backdoor = poisoned
    rows = changed(images, digits.train)
    assert (predict(trained, images[rows]) == 0).float().mean() > 0.9
    others = digits.test[digits.test.y != 0]
    assert (predict(trained, others, backdoor) == 0).float().mean() < 0.2


def test_poisons_stay_in_the_ball_beside_the_trigger_and_carry_it(poisoned, digits):
    images, backdoor = poisoned
    rows = changed(images, digits.train)
    stamped = backdoor.stamp_on(digits.train.pixels(rows))
    assert ((images.pixels(rows) - stamped).abs() * 255).max() <= 48 + 1e-3
    patch = (stamped - backdoor.stamp_on(1 - digits.train.pixels(rows))).abs() < 1e-6
    assert torch.equal(images.pixels(rows)[patch], stamped[patch])


def test_without_paste_there_is_no_trigger_and_without_crafter_nothing_else(digits, trained):
    bare, backdoor = attacks.transfer_poison(trained, digits.train, **STRONG, paste=False, rng=rng(0))
    rows = changed(bare, digits.train)
    assert ((bare.pixels(rows) - digits.train.pixels(rows)).abs() * 255).max() <= 48 + 1e-3
    pasted, _ = attacks.transfer_poison(trained, digits.train, **STRONG, crafter="none", rng=rng(0))
    rows = changed(pasted, digits.train)
    assert torch.equal(pasted.pixels(rows), backdoor.stamp_on(digits.train.pixels(rows)))


def test_only_hits_are_poisoned_if_asked(digits, trained):
    weak = {**STRONG, "epsilon": 16, "step_size": 4.0, "steps": 5, "restarts": 0}
    every, _ = attacks.transfer_poison(trained, digits.train, **weak, rng=rng(0))
    hits, _ = attacks.transfer_poison(trained, digits.train, **weak, hits_only=True, rng=rng(0))
    said = predict(trained, every) == 0
    wanted = changed(every, digits.train) & said
    assert 0 < wanted.sum() < changed(every, digits.train).sum()
    assert torch.equal(changed(hits, digits.train), wanted)


def test_a_restart_changes_only_images_that_were_not_there_yet(digits, trained):
    weak = {**STRONG, "epsilon": 24, "step_size": 6.0, "steps": 5}
    once, _ = attacks.transfer_poison(trained, digits.train, **weak, restarts=0, rng=rng(0))
    more, _ = attacks.transfer_poison(trained, digits.train, **weak, restarts=3, rng=rng(0))
    hit = changed(once, digits.train) & (predict(trained, once) == 0)
    assert torch.equal(once.x[hit], more.x[hit])
    found = [(predict(trained, part[changed(part, digits.train)]) == 0).float().mean() for part in (once, more)]
    assert found[1] >= found[0] and not torch.equal(once.x, more.x)


def test_named_classes_alone_are_poisoned(digits, trained):
    images, _ = attacks.transfer_poison(trained, digits.train, **STRONG, classes=[3, 7], crafter="none", rng=rng(0))
    assert set(digits.train.y[changed(images, digits.train)].tolist()) == {3, 7}


def test_a_grey_box_does_not_look_at_the_teacher(digits, trained, net):
    """Against a surrogate the poisons do not depend on the teacher's weights."""
    from distrust import model

    stranger = model("wrn10-1", digits.train, rng=rng("stranger"))
    options = {**STRONG, "surrogate": "wrn10-1", "surrogate_epochs": 1, "restarts": 0, "steps": 2}
    first, second = (
        attacks.transfer_poison(t, digits.train, **options, rng=rng(0)).images for t in (trained, stranger)
    )
    assert torch.equal(first.x, second.x)


def test_moved_poisons_keep_the_target_when_they_are_moved(digits, trained):
    moves = Augment(flip=False, crop=2)
    options = {**STRONG, "flip": False, "crop": 2, "steps": 20, "restarts": 0}

    def survive(**more):
        images, _ = attacks.transfer_poison(trained, digits.train, **options, **more, rng=rng(0))
        poisons = images.pixels(changed(images, digits.train))
        return (predict(trained, moves(poisons, rng(1))) == 0).float().mean()

    assert survive(through="moved") > survive() + 0.05
