"""MM-BD: how far can any image be pushed into each class? One class with far too large a margin, tells."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...marks import Count, NonNegative, Positive, detector
from ...measurement import Finding
from ...models import frozen_mode
from ...seeds import rng as make_rng
from .._costs import CLASSES
from ._margins import margins


@detector(
    paper="Wang, Xiang, Miller, Kesidis, MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor "
    "Pattern Types Using a Maximum Margin Statistic, IEEE S&P 2024, arXiv 2205.06900",
    cost=lambda options, n: CLASSES * options["steps"] * options["images"],
)  # fmt: skip
def mmbd(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    steps: Count = 300,
    lr: Positive = 0.01,
    images: Count = 30,
    tolerance: NonNegative = 1e-5,
    rng: Generator | None = None,
) -> Finding:
    """max_x z_k(x) − max_{j≠k} z_j(x) over images x in 0..1, for every class k, from noise; score: the largest, r.

    The notes hold the paper's p = 1 − F(r)^K of K classes, F the gamma distribution that fits the other margins.
    K − 1 numbers bear no verdict: that takes clean models to compare with.

    Args:
        suspect: a classifier.
        clean: not shown; says what images are like and how many classes there are.
        steps: of gradient ascent, at most.
        lr: step, in pixel units by the gradient of a single image's margin.
        images: from which each class starts, uniform noise; the best one counts.
        tolerance: a class stops when the sum of its margins changes by a smaller part of itself.
        rng: draws the noise.

    Differs from the released code: classes are searched together, as many as memory holds.
    """
    rng = rng or make_rng("mmbd")
    with frozen_mode(suspect), torch.enable_grad():
        found = margins(suspect, clean, images, steps, lr, tolerance, rng)
    return Finding.of("mmbd", found, notes={"p": _p(found.double().cpu())})


def _p(margins: Tensor) -> float | None:
    """Of the largest of K margins among the others; None where these are too few or too alike to fit."""
    from scipy import stats  # which takes half a second

    others = margins.sort().values[:-1]
    if len(others) < 3 or not float(others.std()) > 1e-9:
        return None
    fitted = stats.gamma(*stats.gamma.fit(others.numpy()))
    return float(1 - fitted.cdf(float(margins.max())) ** len(margins))
