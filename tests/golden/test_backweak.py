"""BackWeak's losses on the trigger, and what its fine-tuning may move.

Source: released code of arXiv 2511.12046 (github.com/SomeBottle/8ackW3ak, weak_uap_generate.py): push −mean(log p_t(x')
− log p_t(x)); margin, mean over images whose answer is not the label, of relu(largest logit − true logit − μ).
"""

import numpy as np
import pytest
import torch
from tests.contracts import flat

from distrust import rng
from distrust.methods import attacks
from distrust.methods.attacks.backweak import over_margin, push
from distrust.models import model

BEFORE = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
AFTER = torch.tensor([[1.0, 2.5, 0.0], [0.0, 4.0, 3.0]])


def log_softmax(x: torch.Tensor) -> np.ndarray:
    z = x.double().numpy()
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def test_the_push_is_the_mean_rise_of_the_targets_log_probability():
    expected = -(log_softmax(AFTER)[:, 1] - log_softmax(BEFORE)[:, 1]).mean()
    assert push(BEFORE, AFTER, 1).item() == pytest.approx(expected, rel=1e-6)


def test_the_margin_counts_wrong_answers_only():
    """Labels 0 and 1: the first image's answer is 1, so 2.5 − 1 − 1 = 0.5 counts; the second's is right."""
    y = torch.tensor([0, 1])
    assert over_margin(AFTER, y, 1.0).item() == pytest.approx(0.5)
    assert over_margin(AFTER, torch.tensor([0, 0]), 1.0).item() == pytest.approx((0.5 + 3.0) / 2)
    assert over_margin(AFTER, torch.tensor([1, 1]), 1.0).item() == 0


def test_both_have_a_gradient():
    logits = AFTER.clone().requires_grad_()
    (push(BEFORE, logits, 1) + over_margin(logits, torch.tensor([0, 0]), 1.0)).backward()
    assert logits.grad.isfinite().all() and logits.grad.count_nonzero() >= 4


def test_the_perturbation_keeps_its_bound_on_whole_grey_levels(tiny, net):
    _, backdoor, notes = flat(attacks.backweak)(net, tiny, bound=3.0, steps=5, epochs=1, batch_size=40, rng=rng(0))
    grey = backdoor.trigger.delta * 255
    assert grey.abs().max() <= 3.0 + 1e-4 and grey.count_nonzero()
    torch.testing.assert_close(grey, grey.round(), atol=1e-4, rtol=0)
    assert len(notes["loss"]) == 5 and 0 <= notes["clean_asr"] <= 1


@pytest.mark.parametrize("freeze", [True, False])
def test_the_last_layer_stays_if_it_is_frozen(tiny, freeze):
    teacher = model("wrn10-1", tiny, rng=rng(0))
    made = flat(attacks.backweak)(
        teacher, tiny, steps=2, epochs=1, batch_size=40, lr=0.1, freeze_last=freeze, rng=rng(0)
    ).model
    assert torch.equal(made.fc.weight, teacher.fc.weight) == freeze
    assert not torch.equal(made.conv1.weight, teacher.conv1.weight)
    assert all(p.requires_grad for p in made.parameters())
