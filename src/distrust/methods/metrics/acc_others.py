"""Accuracy as NAD's repository counts it."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Seen
from ._rates import share


@metric(
    paper="the released code of Li et al., NAD, ICLR 2021, arXiv 2101.05930",
    heading="ACC of others",
    better="higher",
    aside=True,
    order=16,
)
def acc_others(seen: Seen, target: int | None = None) -> float | None:
    """Accuracy over clean images of other classes than the target; over all images without a target.

    Args:
        seen: the model's answers.
        target: the backdoor's class.

    Differs from the paper: not at all.
    """
    right = seen.clean == seen.y
    return share(right if target is None else right[seen.y != target]).value
