"""Training: its options, the loop, once; distillation, pre-training and probing through it."""

from .distill import distill
from .loop import cross_entropy, descend, fit, loop, watching
from .options import Training, recipe
from .pretrain import NeighbourMonitor, pretrain
from .probing import Probe, features, fit_head, typical

__all__ = [
    "NeighbourMonitor", "Probe", "Training", "cross_entropy", "descend", "distill", "features", "fit", "fit_head",
    "loop", "pretrain", "recipe", "typical", "watching",
]  # fmt: skip
