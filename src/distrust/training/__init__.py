"""Training: its options, the loop, once; distillation, pre-training and probing through it."""

from .distill import Teacher, distill, lesson
from .loop import cross_entropy, descend, fit, loop, to_the_end, watching
from .options import Training, recipe
from .pretrain import NeighbourMonitor, pretrain
from .probing import Probe, features, fit_head, typical
from .quick import quick

__all__ = [
    "NeighbourMonitor", "Probe", "Teacher", "Training", "cross_entropy", "descend", "distill", "features", "fit",
    "fit_head", "lesson", "loop", "pretrain", "quick", "recipe", "to_the_end", "typical", "watching",
]  # fmt: skip
