"""Blocks: what is kept of a run that goes through a large study block by block, a stage being counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from .cells import Cell
from .graph import Plan
from .runner import Outcome


class Keys:
    """Keys of stages, eight bytes each."""

    def __init__(self) -> None:
        self.sorted = np.empty(0, np.uint64)

    def __contains__(self, key: object) -> bool:
        number = np.uint64(int(str(key)[:16], 16))
        at = int(np.searchsorted(self.sorted, number))
        return at < len(self.sorted) and self.sorted[at] == number

    def add(self, keys: Iterable[str]) -> None:
        """Remember more of them."""
        more = np.fromiter((int(key[:16], 16) for key in keys), np.uint64)
        self.sorted = np.union1d(self.sorted, more)


class Tally:
    """How a run went, block after block.

    Attributes:
        made: the stages of the blocks that are over.
        outcome: their numbers; the records are let go.
        states: how many cells are done, failed, skipped or missing.
    """

    def __init__(self) -> None:
        self.made, self.outcome = Keys(), Outcome()
        self.states = Counter[str]()

    def add(self, plan: Plan, outcome: Outcome, found: Iterable[str], cells: Iterable[Cell]) -> None:
        """Count a block.

        Args:
            plan: of the block.
            outcome: of its run.
            found: keys of the stages that were there before.
            cells: that came of it.
        """
        total, found = self.outcome, set(found)
        total.ran += outcome.ran
        new = [key for key in plan.stages if key not in self.made]
        for key in new:
            state = "cached" if key in found else outcome.records.get(key, {"state": "missing"})["state"]
            if state != "done":  # of which it has run
                setattr(total, state, getattr(total, state) + 1)
        self.states.update(cell["state"] for cell in cells)
        self.made.add(new)
