"""Score: how suspicious a detector finds the suspect."""

from __future__ import annotations

from collections.abc import Mapping

from ...marks import Column, metric
from ...measurement import Finding


@metric(
    paper="each detector's own", order=20,
    fields={
        "score": Column(heading="Score", unit="score", low=None, high=None),
        "suspect": Column(heading="Most suspicious class", unit="", high=None),
        "score_p": Column(heading="p", unit="ratio"),
    },
)  # fmt: skip
def score(finding: Finding) -> Mapping[str, float | None]:
    """Score of a finding, its most suspicious class, and its p; there is no class where no classes were scored.

    Args:
        finding: what the detector says of the suspect.

    Differs from the paper: scores are comparable among suspects of one kind only.
    """
    named = finding.target if len(finding.scores) > 1 else None  # an encoder has no classes
    return {"score": finding.score, "suspect": named, "score_p": finding.p}
