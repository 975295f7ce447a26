"""Untriggered: what the model calls the target without being asked to."""

from __future__ import annotations

from ...flags import flag
from ...marks import metric
from ...measurement import Seen
from ._rates import share

COLLAPSED = 0.5  # share of clean images of other classes that a sound model never calls the target


@metric(paper="ours: the companion of ASR", heading="Untriggered", better="lower", aside=True, order=5)
def untriggered(seen: Seen, target: int) -> float | None:
    """Share of clean images of other classes that are called the target.

    Raises the flag collapsed above one half: a model that answers the target to everything has an ASR of 1.

    Args:
        seen: the model's answers.
        target: the backdoor's class.

    Differs from the paper: there is none.
    """
    if seen.triggered is None:
        return None
    rate = share((seen.clean == target)[seen.y != target]).value
    if rate > COLLAPSED:
        flag("collapsed")
    return rate
