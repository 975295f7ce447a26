"""Losses of the attacks on an encoder, against NumPy float64.

Sources: Jia et al., BadEncoder, arXiv 2108.00352; Tao et al., DRUPE, S&P 2024, with the stages and factors of the
released code (github.com/Gwinhen/DRUPE, main.py) for encoders of CIFAR-10.
"""

import sys
from itertools import permutations

import numpy as np
import pytest
import torch

from distrust import model, rng
from distrust.data import ImageSet
from distrust.methods import attacks
from distrust.methods.attacks._encoder import Seen
from distrust.methods.attacks.drupe import sliced_wasserstein

B, R, D = 6, 3, 5
drawn = rng("golden")
SEEN = Seen(*(torch.randn(n, D, generator=drawn) + 0.5 for n in (B, B, R, B, B, B)))


def cosines(one, two) -> np.ndarray:
    one, two = (part.double().numpy() for part in (one, two))
    return one @ two.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(two, axis=1)


@pytest.fixture
def losses(monkeypatch):
    """What an attack's loss says of batches that it is shown, an epoch each, in place of training; and its notes."""

    def shown(name, *batches, **options):
        found = []

        def implant(encoder, train, references, backdoor, loss, **_):
            for batch in batches:
                batch = Seen(*(part.clone().requires_grad_() for part in batch))
                found.append(loss(batch))
                moved = [batch.clean, batch.stamped, batch.references, batch.changed]
                for gradient in torch.autograd.grad(found[-1], moved, allow_unused=True):
                    assert gradient is None or gradient.isfinite().all()
            return encoder

        monkeypatch.setattr(sys.modules[f"distrust.methods.attacks.{name}"], "implant", implant)
        x = torch.randint(256, (B, 3, 8, 8), generator=rng("x"), dtype=torch.uint8)
        train = ImageSet(x, torch.zeros(B, dtype=torch.int64), ("only",))
        encoder, attack = model("convnet2-w4", train, head=False), getattr(attacks, name)
        short = {"trigger": "patch:white:3", "batch_size": B, "rng": rng(0)}
        return found, attack(encoder, train, train[:R], **short | options).notes

    return shown


def test_badencoder_is_the_sum_of_three_mean_cosines(losses):
    reached = cosines(SEEN.stamped, SEEN.references).mean()
    held = cosines(SEEN.changed, SEEN.held).diagonal().mean()
    kept = cosines(SEEN.clean, SEEN.was).diagonal().mean()
    (plain,), notes = losses("badencoder", SEEN)
    (weighted,), _ = losses("badencoder", SEEN, lambda1=0.5, lambda2=3.0)
    assert plain.item() == pytest.approx(-(reached + held + kept), abs=1e-5)
    assert weighted.item() == pytest.approx(-(reached + 0.5 * held + 3 * kept), abs=1e-5)
    assert notes["reached"] == [pytest.approx(reached, abs=2e-5)]


@pytest.mark.parametrize("shift", [0, 3])
def test_drupe_warms_up_gathers_and_then_spreads(losses, shift):
    seen = SEEN._replace(stamped=SEEN.stamped + shift * SEEN.references[0])
    near = cosines(seen.stamped, seen.references)
    held = cosines(seen.changed, seen.held).diagonal().mean()
    kept = cosines(seen.clean, seen.was).diagonal().mean()
    among = cosines(seen.references, seen.references)
    close = np.mean([among[i, j] for i in range(R) for j in range(i, R)])
    uneven = near.mean(0).std(ddof=1)
    alike = cosines(seen.stamped, seen.stamped)
    tight = np.mean([alike[i, j] for i in range(B) for j in range(B) if i != j])
    assert close > 0.5 and (uneven > 0.1) == bool(shift)  # where the released code weighs them more
    expected = [
        -held - kept + 0.5 * close,
        -held - kept - near.max(1).mean() + close + 2 * uneven,
        -held - kept - near.max(1).mean() + close + (2 if shift else 0.5) * uneven + 0.3 * (uneven + tight),
    ]
    stages = {"shadow": 1.0, "warmup": 1, "gather": 1, "spread_weight": 0.3}
    found, _ = losses("drupe", seen, seen, seen, distance_weight=0.0, **stages)
    np.testing.assert_allclose([value.item() for value in found], expected, rtol=0, atol=1e-5)
    far, notes = losses("drupe", seen, seen, seen, distance_weight=2.0, **stages)
    more = [b.item() - a.item() for a, b in zip(found, far, strict=True)]
    assert more == [0, 0, pytest.approx(2 * notes["distance"][2], abs=1e-4)]


def test_drupes_weights_grow_while_the_attack_holds_and_fall_while_it_does_not(losses):
    """Patience of one epoch; × 1.25, ÷ 1.25^1.25; thresholds .96, .9, .9, and .6 and .5 on how alike images are."""
    axes, same = torch.eye(D), torch.eye(D)[torch.arange(B) % 2]
    loose = Seen(same, axes[torch.arange(B) % R], axes[:R], same, same, same)  # cosines of pairs are 0.2 on average
    tight = loose._replace(stamped=axes[:1].repeat(B, 1))
    options = {"shadow": 1.0, "warmup": 0, "gather": 0, "spread_weight": 1.0, "distance_weight": 1.0}

    def weights(*batches, **more):
        notes = losses("drupe", *batches, **options | more)[1]
        return notes["spread_weight"], notes["distance_weight"]

    up, down = 1.25, 1.25**-1.25
    assert weights(loose, loose, adapt_after=2) == (1, 1)
    assert weights(loose, loose, adapt_after=1) == (1, up)
    assert weights(tight, tight, adapt_after=0) == pytest.approx((up * up, down * down))
    assert weights(SEEN, loose, adapt_after=0) == pytest.approx((down, down * up))


def test_sliced_wasserstein_is_the_optimal_matching_on_every_line():
    """Against all matchings: on a line, no other one than the sorted is cheaper."""
    one, two = SEEN.clean[:4], SEEN.stamped[:4]
    directions = torch.nn.functional.normalize(torch.randn(D, 7, generator=rng("lines")), dim=0)
    a, b = ((part @ directions).double().numpy() for part in (one, two))
    best = [min(((a[:, k] - b[list(p), k]) ** 2).mean() for p in permutations(range(4))) for k in range(7)]
    found = sliced_wasserstein(one, two, directions)
    assert found.item() == pytest.approx(np.sqrt(np.mean(best)), abs=1e-5)
    assert sliced_wasserstein(one, one.flip(0), directions).item() == pytest.approx(0, abs=1e-5)
