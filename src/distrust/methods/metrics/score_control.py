"""Score of the control arm: what a detector says of a suspect that nobody attacked."""

from __future__ import annotations

from ...marks import metric
from ...measurement import Finding


@metric(paper="each detector's own", heading="Score of the control", unit="score", low=None, high=None, order=21)
def score_control(finding_control: Finding) -> float:
    """Score of the finding about the control arm's suspect.

    Args:
        finding_control: what the detector says of it.

    Differs from the paper: scores are comparable among suspects of one kind only.
    """
    return finding_control.score
