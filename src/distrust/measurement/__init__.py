"""Measurement: the backdoor, predictions, scores and findings."""

from .backdoor import Backdoor, make_trigger
from .finding import Finding
from .predict import predict
from .scores import TEACHER_CARRIES, Interval, Measurement, Rate, Seen, measure, over_seeds, planned, score

__all__ = [
    "TEACHER_CARRIES", "Backdoor", "Finding", "Interval", "Measurement", "Rate", "Seen", "make_trigger", "measure",
    "over_seeds", "planned", "predict", "score",
]  # fmt: skip
