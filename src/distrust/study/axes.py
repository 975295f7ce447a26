"""Axes: what a study varies, in one table that plans, budgets, selectors, reports and commands read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis of a study.

    Args:
        name: in study files, in cells and in the names of columns.
        kind: of the methods that stand on it; "" where it names images or networks.
        default: its entry where a study says nothing.
        always: every cell has it; others only where it is not "none".
        setting: students share it: part of what a report calls a setting.
        heading: of its column.
    """

    name: str
    kind: str = ""
    default: str = "none"
    always: bool = True
    setting: bool = False
    heading: str = ""

    @property
    def labelled(self) -> bool:
        """Its entries are shortened to what tells them from the others of a study."""
        return bool(self.kind)

    @property
    def title(self) -> str:
        """Heading of its column."""
        return self.heading or self.name.capitalize()


TABLE = (
    Axis("images", default="digits", setting=True),
    Axis("teacher", default="wrn16-1", setting=True),
    Axis("attack", "attacks", setting=True),
    Axis("condenser", "condensers", always=False, setting=True),
    Axis("encoder", "objectives", always=False, setting=True),
    Axis("distiller", "distillers"),
    Axis("student", default="same"),
    Axis("defense", "defenses", heading="Defence"),
    Axis("detector", "detectors", always=False),
)
AXES = {axis.name: axis for axis in TABLE}
