"""n: how many images stand behind an ASR."""

from __future__ import annotations

from ...flags import flag
from ...marks import metric
from ...measurement import Seen

FEW_IMAGES = 200


@metric(paper="ours", heading="n", unit="count", high=None, aside=True, order=9)
def n(seen: Seen, target: int | None = None) -> int:
    """Number of triggered images of other classes than the target; 0 without a trigger.

    Raises the flag few-images below 200.

    Args:
        seen: the model's answers.
        target: the backdoor's class.

    Differs from the paper: there is none.
    """
    if target is None or seen.triggered is None:
        return 0
    count = int((seen.y != target).sum())
    if count < FEW_IMAGES:
        flag("few-images")
    return count
