"""Models: built by name, read by layer."""

from .groups import Layer, group_ends, last_linear, layers, norm_at, resolve, runs_of
from .modes import called, eval_mode, frozen, frozen_mode, refuse_batch_norm
from .normalize import Normalize
from .outputs import candidates
from .pairs import PAIRS, teacher_student
from .parts import at_once, in_parts, laid_out, room
from .registry import check_encoder, check_fits, check_trains, families, is_encoder, model
from .saved import bare, behind, filled, load, original_names, save, saved, spec_in
from .taps import Taps, taps

__all__ = [
    "PAIRS",
    "Layer",
    "Normalize",
    "Taps",
    "at_once",
    "bare",
    "behind",
    "called",
    "candidates",
    "check_encoder",
    "check_fits",
    "check_trains",
    "eval_mode",
    "families",
    "filled",
    "frozen",
    "frozen_mode",
    "group_ends",
    "in_parts",
    "is_encoder",
    "laid_out",
    "last_linear",
    "layers",
    "load",
    "model",
    "norm_at",
    "original_names",
    "refuse_batch_norm",
    "resolve",
    "room",
    "runs_of",
    "save",
    "saved",
    "spec_in",
    "taps",
    "teacher_student",
]
