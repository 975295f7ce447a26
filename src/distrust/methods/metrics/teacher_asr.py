"""ASR of the teacher."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import success


@metric(paper="ours", heading="Teacher ASR", better="lower", aside=True, order=11)
def teacher_asr(teacher: Seen, target: int) -> float | None:
    """ASR of the model that the student learns from.

    Args:
        teacher: its answers.
        target: the backdoor's class.

    Differs from the paper: there is none.
    """
    found = success(teacher, target)
    return found.value if found else None
