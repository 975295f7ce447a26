"""Studies: a TOML file becomes a plan of stages, a store keeps what they made, cells are read from it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .cells import Cell, read_cells, write_cells
from .store import Store

__all__ = [
    "Budget",
    "Cell",
    "Outcome",
    "Plan",
    "Stage",
    "Store",
    "Study",
    "make_plan",
    "read_cells",
    "read_study",
    "run",
    "score_cells",
    "write_cells",
]

_HOME = {
    "Budget": "spec", "Outcome": "runner", "Plan": "graph", "Stage": "graph", "Study": "spec", "make_plan": "plan",
    "read_study": "spec", "run": "runner", "score_cells": "scoring",
}  # fmt: skip

if TYPE_CHECKING:
    from .graph import Plan, Stage
    from .plan import make_plan
    from .runner import Outcome, run
    from .scoring import score_cells
    from .spec import Budget, Study, read_study


def __getattr__(name: str) -> Any:
    """Import what plans and runs on first use; who reads cells or a store needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
