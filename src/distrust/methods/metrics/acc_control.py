"""ACC of the control arm."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import accuracy


@metric(paper="ours", heading="ACC of the control", better="higher", aside=True, order=13)
def acc_control(control: Seen) -> float | None:
    """Accuracy of the control arm over all clean test images.

    Args:
        control: its answers.

    Differs from the paper: there is none.
    """
    return accuracy(control).value
