"""Seconds: what a number cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...marks import metric


@metric(paper="ours", heading="Seconds", unit="seconds", high=None, better="lower", aside=True, order=30)
def seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Time that every stage behind the number took, added up, to a tenth of a second; a shared stage counts whole.

    Args:
        records: of the stages.

    Differs from the paper: there is none.
    """
    return round(sum(record["seconds"] for record in records), 1)
