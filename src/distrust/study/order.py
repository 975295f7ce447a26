"""Order: which stages come next, and which can no longer be carried out."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

from .graph import Stage
from .records import Record
from .work import together

TOGETHER = 8  # stages that are carried out in turns at most: each holds its model and its momentum


class Queue:
    """Stages whose parents are all there, in the plan's order; each is looked at once for every parent."""

    def __init__(self, waiting: Mapping[str, Stage]) -> None:
        self.place = {key: place for place, key in enumerate(waiting)}
        self.children: dict[str, list[Stage]] = {}
        self.missing: dict[str, int] = {}
        self.ready: list[tuple[int, Stage]] = []
        self.alike: dict[str | None, dict[str, Stage]] = {}
        self.open = set(waiting)  # what is not done with
        self.put_off = set[str]()  # what another run was at
        self.last = len(waiting)
        for stage in waiting.values():
            self._enter(stage)

    def __bool__(self) -> bool:
        return bool(self.ready)

    def take(self, free: int) -> list[Stage]:
        """The next stage, and those that are carried out together with it: their share, of so many free processes."""
        _, stage = heapq.heappop(self.ready)
        alike = self.alike.get(together(stage), {})
        count = min(math.ceil(len(alike) / free), TOGETHER)
        found = [stage, *(one for one in alike.values() if one is not stage)][: max(count, 1)]
        for one in found:
            alike.pop(one.key, None)
        taken = {one.key for one in found[1:]}
        if taken:
            self.ready = [row for row in self.ready if row[1].key not in taken]
            heapq.heapify(self.ready)
        return found

    def release(self, stage: Stage) -> None:
        """It is done with: its children have a parent less to wait for."""
        self.open.discard(stage.key)
        for child in self.children[stage.key]:
            self.missing[child.key] -= 1
            if not self.missing[child.key]:
                self._add(child)

    def redo(self, stages: Sequence[Stage], lost: Stage | None) -> None:
        """Put back stages that were taken; what they lack goes before them."""
        if lost and lost.key not in self.open:
            self.open.add(lost.key)
            self.place.setdefault(lost.key, -1 - len(self.place))
            self._enter(lost)
        for stage in stages:
            if lost:
                self.missing[stage.key] += 1
                self.children[lost.key].append(stage)
            else:
                self._add(stage)

    def put_back(self, stage: Stage) -> None:
        """Another run is at it: everything else comes first."""
        self.put_off.add(stage.key)
        self.place[stage.key] = self.last = self.last + 1
        self._add(stage)

    def _enter(self, stage: Stage) -> None:
        """Parents come before their children."""
        parents = [parent.key for parent in stage.parents if parent.key in self.open]
        self.children[stage.key], self.missing[stage.key] = [], len(parents)
        for key in parents:
            self.children[key].append(stage)
        if not parents:
            self._add(stage)

    def _add(self, stage: Stage) -> None:
        heapq.heappush(self.ready, (self.place[stage.key], stage))
        if (group := together(stage)) is not None:
            self.alike.setdefault(group, {})[stage.key] = stage


def inherited(stage: Stage, records: Mapping[str, Record]) -> Record | None:
    """The fate that a stage shares with a parent that has nothing to give; None if it can be carried out.

    Of a choice's candidates, one that works is enough. Nothing is stored, so a retry reaches it.
    """
    broken = [p for p in stage.parents if records[p.key]["state"] != "done"]
    lost = {p.key for p in broken}
    if not broken or lost < stage.spare:
        return None
    record = records[broken[0].key]
    error = record.get("error", "")
    if not error.startswith("after "):
        error = f"after {broken[0].label}: {error}"
    return {"state": record["state"], "error": error, "flags": record["flags"], "seconds": 0.0}
