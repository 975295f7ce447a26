"""Intervals over seeds, and what is too little to be told."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from .marks import Column
from .registry import registry

Interval = tuple[float, float]

TEACHER_CARRIES = 0.05  # below it, nothing was there to inherit


def over_seeds(values: Sequence[float], rate: str = "") -> tuple[float, Interval | None]:
    """Mean and 95 % t-interval over seeds; no interval for a single one.

    Args:
        values: one number a seed.
        rate: the field of a metric, whose interval then ends where the metric's range does.
    """
    return within(values, column_of(rate))


def column_of(rate: str) -> Column:
    """Of the field of a metric, its range; without one where there is no such field."""
    every = (mark.columns(name) for name, mark in registry.marks("metrics").items()) if rate else ()
    return next((found[rate] for found in every if rate in found), Column(low=None, high=None))


def within(values: Sequence[float], column: Column) -> tuple[float, Interval | None]:
    """The same as `over_seeds` for a field whose column was looked up before."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    reach = _student(n - 1) * spread
    low, high = mean - reach, mean + reach
    return mean, (low if column.low is None else max(low, column.low), min(high, column.high or math.inf))


@functools.cache
def _student(freedom: int) -> float:
    from scipy.special import stdtrit  # one run has no interval, and needs no SciPy

    return float(stdtrit(freedom, 0.975))
