"""ASR before the defence."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import success


@metric(paper="ours", heading="ASR before", better="lower", aside=True, order=15)
def undefended_asr(undefended: Seen, target: int) -> float | None:
    """ASR before the defence.

    Args:
        undefended: the answers of the model that the defence got.
        target: the backdoor's class.

    Differs from the paper: there is none.
    """
    found = success(undefended, target)
    return found.value if found else None
