"""Carried: what the attack did, beyond what the trigger does to any model."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Rate, Seen
from ._rates import difference


@metric(
    paper="ours; the interval: Newcombe, Statistics in Medicine 17, 1998",
    heading="Carried", unit="points", low=-1.0, better="lower", interval=True, order=7,
)  # fmt: skip
def carried(seen: Seen, control: Seen, target: int) -> Rate | None:
    """ASR minus base, with Newcombe's 95 % hybrid score interval for pairs: both arms answer for the same images.

    Args:
        seen: the model's answers.
        control: the control's answers under the same trigger.
        target: the backdoor's class.

    Differs from the paper: the correlation of the pairs is not corrected for continuity.
    """
    return difference(seen, control, target)
