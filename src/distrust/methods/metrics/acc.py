"""ACC: accuracy on clean images."""

from __future__ import annotations

from ...flags import flag
from ...marks import metric
from ...measurement import Rate, Seen
from ._rates import accuracy, paired

ACC_FLOOR = 0.10  # a defence that costs more earns no credit


@metric(
    paper="the word of every paper; the interval: Wilson, JASA 22, 1927",
    heading="ACC", better="higher", interval=True, order=1,
)  # fmt: skip
def acc(seen: Seen, undefended: Seen | None = None) -> Rate:
    """Share of all clean test images that the model calls what they are, with Wilson's 95 % interval.

    Raises the flag acc-floor where a defence cost more than 10 points, and chance-level where the interval reaches down
    to the share of the most frequent class, which a model has that always answers this one.

    Args:
        seen: the model's answers.
        undefended: those of the model before the defence.

    Differs from the paper: not at all, but that the target's own images count; `acc_others` leaves them out.
    """
    if undefended is not None and paired(undefended.clean == seen.y, seen.clean == seen.y).value > ACC_FLOOR:
        flag("acc-floor")
    rate = accuracy(seen)
    if rate.interval[0] <= float(seen.y.bincount().max()) / len(seen.y):
        flag("chance-level")
    return rate
