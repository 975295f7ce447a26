"""Measurement: the backdoor, predictions, scores and findings."""

from ..intervals import TEACHER_CARRIES, Interval, over_seeds
from .backdoor import Backdoor, make_trigger
from .finding import Finding
from .predict import accuracy, outputs, predict
from .scores import Measurement, Rate, Seen, measure, planned, score

__all__ = [
    "TEACHER_CARRIES", "Backdoor", "Finding", "Interval", "Measurement", "Rate", "Seen", "accuracy", "make_trigger",
    "measure", "outputs", "over_seeds", "planned", "predict", "score",
]  # fmt: skip
