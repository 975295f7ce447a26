"""What the teacher carries."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import difference


@metric(
    paper="ours",
    heading="Teacher carried",
    unit="points",
    low=-1.0,
    better="lower",
    aside=True,
    order=12,
)
def teacher_carried(teacher: Seen, teacher_control: Seen, target: int) -> float | None:
    """ASR minus base of the model that the student learns from: what there is to inherit.

    Args:
        teacher: its answers.
        teacher_control: those of the teacher that nobody attacked, under the same trigger.
        target: the backdoor's class.

    Differs from the paper: there is none.
    """
    found = difference(teacher, teacher_control, target)
    return found.value if found else None
