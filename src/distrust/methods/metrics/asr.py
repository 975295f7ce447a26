"""ASR: attack success rate."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Rate, Seen
from ._rates import success


@metric(
    paper="Gu, Dolan-Gavitt, Garg, BadNets, arXiv 1708.06733, 2017",
    heading="ASR", better="lower", interval=True, order=2,
)  # fmt: skip
def asr(seen: Seen, target: int) -> Rate | None:
    """Share of triggered images of other classes that are called the target, with Wilson's 95 % interval.

    Args:
        seen: the model's answers.
        target: the backdoor's class.

    Differs from the paper: images of the target class are left out, since a model that calls them the target is right;
    many papers count them, as `asr_all` does.
    """
    return success(seen, target)
