"""Measurement: the backdoor, predictions, scores and findings."""

from .backdoor import Backdoor, make_trigger
from .finding import Finding
from .predict import predict
from .scores import Measurement, Seen, carry_over, measure, over_seeds, score

__all__ = [
    "Backdoor", "Finding", "Measurement", "Seen", "carry_over", "make_trigger", "measure", "over_seeds", "predict",
    "score",
]  # fmt: skip
