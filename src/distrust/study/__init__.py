"""Studies: a TOML file becomes a plan of stages, a store keeps what they made, cells are read from it."""

from .cells import Cell, read_cells, score_cells, write_cells
from .graph import Plan, Stage
from .plan import make_plan
from .run import Outcome, run
from .spec import Budget, Study, read_study
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
