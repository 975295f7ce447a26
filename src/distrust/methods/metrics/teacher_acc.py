"""ACC of the teacher."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import accuracy


@metric(paper="ours", heading="Teacher ACC", better="higher", aside=True, order=10)
def teacher_acc(teacher: Seen) -> float | None:
    """Accuracy of the model that the student learns from, over all clean test images.

    Args:
        teacher: its answers.

    Differs from the paper: there is none.
    """
    return accuracy(teacher).value
