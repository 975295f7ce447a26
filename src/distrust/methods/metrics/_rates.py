"""Shares of images with their intervals, and the rates that several metrics are made of."""

from __future__ import annotations

import math

from torch import Tensor

from ...errors import BadInput
from ...intervals import wilson
from ...measurement import Rate, Seen


def accuracy(seen: Seen) -> Rate:
    """Share of all clean images that are called what they are."""
    return share(seen.clean == seen.y)


def success(seen: Seen, target: int) -> Rate | None:
    """Share of triggered images of other classes that are called the target; None if no trigger was put on."""
    return None if seen.triggered is None else share((seen.triggered == target)[seen.y != target])


def difference(seen: Seen, control: Seen, target: int) -> Rate | None:
    """`success` of a model minus that of its control."""
    if seen.triggered is None or control.triggered is None:
        return None
    others = seen.y != target
    return paired((seen.triggered == target)[others], (control.triggered == target)[others])


def share(hits: Tensor) -> Rate:
    """Of bool [N], with Wilson's interval.

    Raises:
        BadInput: there is no image.
    """
    n = len(hits)
    if n == 0:
        raise BadInput("no image of another class than the target is left to trigger; give more test images.")
    k = int(hits.sum())
    return Rate(k / n, wilson(k, n))


def paired(ours: Tensor, theirs: Tensor) -> Rate:
    """Difference of two shares over the same images, bool [N] each, with Newcombe's 95 % interval for pairs.

    Newcombe, Statistics in Medicine 17 (1998) 2635, from two Wilson intervals and the correlation φ of the pairs
    (without continuity correction); unlike the normal interval it has a width when all images agree.
    """
    n = len(ours)
    both, neither = int((ours & theirs).sum()), int((~ours & ~theirs).sum())
    mine, other = int(ours.sum()), int(theirs.sum())
    p, q = mine / n, other / n
    (p_low, p_high), (q_low, q_high) = wilson(mine, n), wilson(other, n)
    margins = mine * (n - mine) * other * (n - other)
    phi = (both * neither - (mine - both) * (other - both)) / math.sqrt(margins) if margins else 0.0
    below = (p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2
    above = (p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2
    value = (mine - other) / n
    # a hair below 0 by rounding, where both shares are 0 or 1
    return Rate(value, (value - math.sqrt(max(below, 0.0)), value + math.sqrt(max(above, 0.0))))
