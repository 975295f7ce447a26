"""ASR as many papers count it."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import share


@metric(
    paper="Gu, Dolan-Gavitt, Garg, BadNets, arXiv 1708.06733, 2017",
    heading="ASR over all", better="lower", aside=True, order=3,
)  # fmt: skip
def asr_all(seen: Seen, target: int) -> float | None:
    """Share of all triggered images, the target's own included, that are called the target.

    At ten classes that adds up to ten points, on any model.

    Args:
        seen: the model's answers.
        target: the backdoor's class.

    Differs from the paper: not at all.
    """
    return None if seen.triggered is None else share(seen.triggered == target).value
