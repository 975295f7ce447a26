"""Input-aware patterns: the generator, the losses, the blend, and one step, against NumPy float64 and by hand.

Source: released code (github.com/VinAIResearch/input-aware-backdoor-attack-release: networks/models.py, train.py,
config.py): tanh/2 + 0.5 of a net of 13 convolutions with BatchNorm; tanh(20o − 10)/2 + 0.5 for masks; ‖x₁ − x₂‖ /
(‖p₁ − p₂‖ + 1e-7), root mean squares; x + (P(x) − x)·M(x).
"""

import copy

import numpy as np
import pytest
import torch
from tests.training_fixture import net as small
from torch.nn import functional as F

from distrust import rng
from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.measurement import Backdoor
from distrust.methods import attacks, triggers
from distrust.methods.attacks.input_aware import apart
from distrust.methods.triggers._generator import Draughtsman, flat, pair, sharp
from distrust.seeds import seeded

X = torch.rand(4, 3, 16, 24, generator=rng("x"))


def test_the_generator_has_the_released_layers():
    net = Draughtsman(3, 1, 32, rng(0))
    widths = [3, 32, 32, 64, 64, 128, 128, 128, 128, 64, 64, 32, 32, 1]
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == list(zip(widths, widths[1:], strict=False))
    assert sum(p.numel() for p in net.parameters()) == sum(
        9 * a * b + 3 * b for a, b in zip(widths, widths[1:], strict=False)
    )
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 13 and {n.momentum for n in norms} == {0.05}
    assert sum(isinstance(m, torch.nn.ReLU) for m in net.modules()) == 12, "none at the end"
    drawn = net(X)
    assert drawn.shape == (4, 1, 16, 24) and 0 < drawn.min() < drawn.max() < 1


def test_the_parts_are_the_released_ones_where_three_layers_are_followed_by_hand():
    """All convolutions pass the first channel's centre on, and BatchNorm in eval mode divides by √(1 + ε)."""
    net = Draughtsman(1, 1, 1, rng(0)).eval()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, torch.nn.Conv2d):
                m.weight.zero_()
                m.weight[:, 0, 1, 1] = 1
                m.bias.zero_()
    x = torch.rand(1, 1, 8, 8, generator=rng("one"))
    top = x.double().numpy().max()  # halved three times, one pixel is left, which is doubled as it is
    expected = np.tanh(top / (1 + 1e-5) ** 6.5) / 2 + 0.5
    np.testing.assert_allclose(net(x).detach().double().numpy(), np.full((1, 1, 8, 8), expected), atol=1e-5)


def test_masks_are_sharpened_and_distances_compared_as_released():
    o = np.linspace(0, 1, 9)
    np.testing.assert_allclose(sharp(torch.from_numpy(o)).numpy(), np.tanh(o * 20 - 10) / 2 + 0.5, atol=1e-12)
    x1, x2, p1, p2 = torch.rand(4, 5, 3, 2, 2, generator=rng("pairs"), dtype=torch.float64)
    a, b = (np.sqrt(((u - v).numpy() ** 2).mean((1, 2, 3))) for u, v in ((x1, x2), (p1, p2)))
    assert apart(x1, x2, p1, p2).item() == pytest.approx((a / (b + 1e-7)).mean())
    p1.requires_grad_()
    apart(x1, x2, p1, p2).backward()
    assert p1.grad.count_nonzero() == p1.numel()


def test_the_trigger_blends_the_pattern_through_the_mask_in_eval_mode():
    networks = pair(3, 4, rng(1))
    for net in networks:
        net.train()(X)  # BatchNorm sees something
    trigger = triggers.generated(weights=flat(networks), channels=3, width=4)
    p, m = (net.eval()(X).detach().double().numpy() for net in networks)
    x, m = X.double().numpy(), np.rint(255 * (np.tanh(m * 20 - 10) / 2 + 0.5)) / 255
    p = np.rint(p * 255) / 255
    np.testing.assert_allclose(trigger(X).double().numpy(), x + (p - x) * m, atol=1e-5)
    again = triggers.generated(**trigger.recipe)
    assert torch.equal(again(X), trigger(X)) and not list(trigger.parameters())
    with pytest.raises(BadInput, match=r"weights must be \d+ finite numbers"):
        triggers.generated(weights=flat(networks)[1:], width=4)
    for images in (X[:, :1], X[:, :, :7]):
        with pytest.raises(BadInput, match="do not fit on"):
            trigger(images)


QUICK = {"mask_epochs": 1, "epochs": 1, "width": 2, "flip": False, "crop": 0, "batch_size": 80}


def test_one_step_without_attack_is_the_usual_one(tiny, net):
    """w − lr·(∇CE + 5e-4·w) at the first step of momentum."""
    made = attacks.input_aware(net, tiny, rate=0.0, cross=0.0, lr=0.05, rng=rng(0), **QUICK).model
    hand = copy.deepcopy(net).train()
    F.cross_entropy(hand(tiny.pixels()), tiny.y).backward()
    for got, p in zip(made.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(got, p - 0.05 * (p.grad + 5e-4 * p), atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("rate, cross, pull", [(0.0, 1.0, 0.0), (1.0, 0.0, 0.75)])
def test_crossed_images_keep_their_label_and_attacked_ones_are_the_targets(tiny, net, rate, cross, pull):
    """∂CE/∂b_t = mean p_t − share of label t: of four balanced classes about 1/4 − 1/4, and 1/4 − 1."""
    made = attacks.input_aware(net, tiny, target=2, rate=rate, cross=cross, lr=0.1, rng=rng(0), **QUICK).model
    moved = (made.fc.bias - net.fc.bias)[2].item() / 0.1
    assert moved == pytest.approx(pull, abs=0.2)


def test_every_part_of_the_batch_and_every_loss_counts(tiny, net):
    def planted(**options):
        made = attacks.input_aware(net, tiny, rng=rng(0), **{**QUICK, "batch_size": 20, **options})
        return torch.cat([p.detach().flatten() for p in made.model.parameters()]), made.backdoor.trigger.recipe[
            "weights"
        ]

    plain = planted()
    for options in ({"rate": 0.3}, {"cross": 0.3}, {"diversity": 0.0}, {"density_weight": 0.0}):
        other = planted(**options)
        assert not torch.equal(plain[0], other[0]) and not torch.equal(plain[1], other[1]), options


def test_its_own_pattern_leads_to_the_target():
    x = torch.randint(60, 200, (128, 3, 8, 8), generator=rng("x"), dtype=torch.uint8)
    train = ImageSet(x, torch.arange(128) % 2, ("a", "b"), name="two")
    options = {**QUICK, "batch_size": 32, "width": 8, "epochs": 25, "lr": 0.05, "mask_epochs": 3}
    with seeded(rng(0)):
        start = torch.nn.Sequential(small(8)[:-1], torch.nn.Linear(8, 2))
    model, backdoor, notes = attacks.input_aware(start, train, target=1, rate=0.3, cross=0.4, rng=rng(0), **options)
    others = train.pixels(train.y == 0)
    own = backdoor.hit(model, others).float().mean()
    assert own > 0.8, notes
    assert isinstance(backdoor, Backdoor) and backdoor.stamp == "after"
