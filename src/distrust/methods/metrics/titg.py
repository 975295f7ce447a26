"""TITG: how much more often the target is said under the trigger."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import share


@metric(
    paper="BackWeak, arXiv 2511.12046",
    heading="TITG", unit="points", low=-1.0, better="lower", aside=True, order=6,
)  # fmt: skip
def titg(seen: Seen, target: int) -> float | None:
    """P(target | triggered) − P(target | clean), over all test images.

    Args:
        seen: the model's answers.
        target: the backdoor's class.

    Differs from the paper: not at all.
    """
    if seen.triggered is None:
        return None
    return share(seen.triggered == target).value - share(seen.clean == target).value
