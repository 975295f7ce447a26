"""Intervals over images and over seeds, what may be claimed from them, and what is too little to be told."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

Interval = tuple[float, float]

TEACHER_CARRIES = 0.05  # below it, nothing was there to inherit
LEAST = 3  # runs without which there is no verdict
FEW = 5  # of fewer runs every value is shown, and no interval
ROUNDING = 1e-12
RATE = 0.05  # of the claims of one study, the share that may be false


def over_seeds(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Mean and 95 % t-interval over seeds, wherever it ends; no interval for a single one.

    Args:
        values: one number a seed.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    reach = _student(n - 1) * _error(values, mean)
    return mean, (mean - reach, mean + reach)


@functools.lru_cache(4096)
def wilson(k: int, n: int) -> Interval:
    """95 % interval of k hits in n (Wilson, JASA 22, 1927)."""
    from scipy import stats  # which takes half a second

    interval = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


class Share(NamedTuple):
    """So many of so many."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """0..1."""
        return self.hits / self.of

    @property
    def interval(self) -> Interval:
        """Wilson's, of 95 %."""
        return wilson(self.hits, self.of)


def weighted(shares: Sequence[tuple[float, Share]]) -> tuple[float, Interval]:
    """A weighted sum of independent shares, with its 95 % interval (MOVER: Zou and Donner, Stat. Med. 27, 2008).

    Args:
        shares: weights above 0, each with its share.
    """
    value = math.fsum(weight * share.value for weight, share in shares)
    low, high = (
        math.sqrt(math.fsum((weight * (share.value - share.interval[end])) ** 2 for weight, share in shares))
        for end in (0, 1)
    )
    return value, (value - low, value + high)


def foreseen(values: Sequence[float], runs: int) -> Interval:
    """Where the mean of so many more runs lies in 95 of 100 cases.

    Args:
        values: one number a seed, two or more.
        runs: how many more.
    """
    n = len(values)
    mean = math.fsum(values) / n
    reach = _student(n - 1) * _error(values, mean) * math.sqrt(1 + n / runs)
    return mean - reach, mean + reach


def needed(values: Sequence[float], bound: float, most: int = 100) -> int | None:
    """How many runs would tell their mean from a bound, if mean and spread stayed as they are; None: more than `most`.

    Args:
        values: one number a seed, two or more.
        bound: which the 95 % t-interval would have to leave out.
        most: runs that are thought of.
    """
    mean = math.fsum(values) / len(values)
    spread = _error(values, mean) * math.sqrt(len(values))
    told = (n for n in range(len(values), most + 1) if _student(n - 1) * spread / math.sqrt(n) < abs(mean - bound))
    return next(told, None)


def chance_above(values: Sequence[float], bound: float = 0.0) -> float:
    """The chance that runs lie so far above `bound` if their true mean does not: a one-sided t-test.

    Args:
        values: one number a seed, two or more.
        bound: in their unit.
    """
    from scipy.special import stdtr

    mean = math.fsum(values) / len(values)
    error = _error(values, mean)
    if error < ROUNDING:  # all runs gave the same
        return float(mean <= bound + ROUNDING)
    return float(stdtr(len(values) - 1, (bound - mean) / error))


def chance_below(values: Sequence[float], bound: float = 0.0) -> float:
    """The same for lying below."""
    return chance_above([-value for value in values], -bound)


def claimed(chances: Sequence[float], rate: float = RATE) -> list[bool]:
    """Which of several hypotheses are refuted, if a share of at most `rate` of such claims may be false.

    Source: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57, 1995.

    Args:
        chances: one p-value each, of tests that are independent or depend on each other positively.
        rate: the false discovery rate.
    """
    ranked = enumerate(sorted(chances), start=1)
    limit = max((p for rank, p in ranked if p <= rate * rank / len(chances)), default=-1.0)
    return [p <= limit for p in chances]


@functools.cache
def _student(freedom: int) -> float:
    from scipy.special import stdtrit  # one run has no interval, and needs no SciPy

    return float(stdtrit(freedom, 0.975))


def _error(values: Sequence[float], mean: float) -> float:
    """The standard error of a mean of two or more."""
    n = len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
