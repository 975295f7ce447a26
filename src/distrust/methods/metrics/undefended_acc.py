"""ACC before the defence."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import accuracy


@metric(paper="ours", heading="ACC before", better="higher", aside=True, order=14)
def undefended_acc(undefended: Seen) -> float | None:
    """Accuracy before the defence, over all clean test images; only where there is a trigger.

    Args:
        undefended: the answers of the model that the defence got.

    Differs from the paper: there is none.
    """
    return None if undefended.triggered is None else accuracy(undefended).value
