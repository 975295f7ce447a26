"""ABL's three trainings from fixed weights, in float64, and which images it isolates.

Sources: arXiv 2110.11571, section 3, and its released code, bboylyg/ABL fe9ff40: sign(CE − γ) · CE at a constant rate;
the lowest losses in eval mode; cross-entropy on the others, a tenth of the rate behind a milestone; the negative
cross-entropy on the isolated ones. SGD starts anew for each, with Nesterov's momentum 0.9 and weight decay 1e-4.
"""

import importlib

import pytest
import torch
from tests.contracts import flat
from tests.golden.steps import PLAIN, double, near, sgd

from distrust import model, rng
from distrust.data import Late
from distrust.errors import BadInput
from distrust.measurement import make_trigger
from distrust.methods import defenses
from distrust.seeds import spawn

ABL = importlib.import_module("distrust.methods.defenses.abl")
RULE = {"momentum": 0.9, "decay": 1e-4, "nesterov": True}


@pytest.fixture
def few(tiny):
    """24 images in one batch, so that order means nothing."""
    return tiny[:24]


def losses(net, x, y):
    logits = net(x)
    return (logits.logsumexp(1, keepdim=True) - logits)[torch.arange(len(y)), y]


def test_abl_keeps_the_loss_near_a_level_and_unlearns_what_it_learnt_first(few):
    suspect = model("mlp", few, rng=rng("suspect"))
    suspect.normalize.mean.fill_(0.3)
    options = PLAIN | {"lr": 0.05, "batch_size": 24, "epochs": 2, "milestones": (1,), "isolate": 0.25, "level": 1.2}
    options |= {"isolation_epochs": 6, "unlearn_epochs": 2, "unlearn_lr": 0.02}
    made = flat(defenses.abl)(suspect, few, **options, rng=rng(0))

    start = model("mlp", few, rng=spawn(rng(0)))
    start.normalize.load_state_dict(suspect.normalize.state_dict())
    want, x, y, signs = double(start, True), few.pixels().double(), few.y, []

    def held():
        loss = losses(want, x, y).mean()
        signs.append(1 if loss > 1.2 else -1)
        return signs[-1] * loss

    sgd([want], held, [0.05] * 6, **RULE)
    assert {*signs} == {1, -1}, "down to the level, and up again"
    order = losses(want.eval(), x, y).argsort()
    first, rest = order[:6], order[6:]
    sgd([want], lambda: losses(want, x[rest], y[rest]).mean(), [0.05, 0.005], **RULE)
    sgd([want], lambda: -losses(want, x[first], y[first]).mean(), [0.02, 0.02], **RULE)
    near(made, want, start)


@pytest.fixture
def trained(monkeypatch):
    """What each training is given, of which none is carried out."""
    seen = []

    def loop(network, images, objective, training, **options):
        seen.append((images, training))
        return network

    monkeypatch.setattr(ABL, "loop", loop)
    return seen


def test_a_trigger_that_is_stamped_in_training_is_there_when_losses_are_compared(tiny, trained):
    net, rows, x = double(model("mlp", tiny, rng=spawn(rng(0))), False), torch.arange(80) % 3 == 0, tiny.pixels()
    x, bare = x.double(), x.double()
    x[rows, :, -6:, -6:] = 1
    target = int(net(x[rows]).mean(0).argmax())  # what it says of stamped images, as if it had learnt that
    poisoned = tiny.replace(y=torch.where(rows, target, tiny.y), late=Late(rows, make_trigger("patch:white:6")))
    defenses.abl(model("mlp", tiny, rng=rng("suspect")), poisoned, isolate=0.2, rng=rng(0))
    by, without = (losses(net, images, poisoned.y).argsort()[:16].sort().values for images in (x, bare))
    whole, others, isolated = (images for images, _ in trained)
    assert whole is poisoned and isolated.index.tolist() == by.tolist() != without.tolist()
    assert sorted([*others.index.tolist(), *isolated.index.tolist()]) == list(range(80))
    assert isolated.late is not None and torch.equal(isolated.late.rows, rows[by])
    assert [how.augment == ABL.PLAIN for _, how in trained] == [True, False, True]
    assert [how.schedule for _, how in trained] == ["constant", "step", "constant"]


def test_a_share_of_less_than_two_images_is_refused_before_anything_is_trained(tiny, trained):
    suspect = model("mlp", tiny, rng=rng("suspect"))
    with pytest.raises(BadInput, match=r"^isolate=0\.01 of 80 images is 1, and a step needs two\. Give 0\.025 or more"):
        defenses.abl(suspect, tiny)
    assert not trained
    defenses.abl(suspect, tiny, isolate=0.025)
    assert len(trained[-1][0]) == 2
    del suspect.spec
    with pytest.raises(BadInput, match="does not say how it was built.*Build it with model"):
        defenses.abl(suspect, tiny, isolate=0.1)
