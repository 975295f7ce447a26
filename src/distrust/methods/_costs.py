"""What costs of methods are made of; see `Mark.cost` of the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Cost = Callable[[dict[str, Any], int], float]

LOOK = 0.4  # a forward pass alone, in training steps
CLASSES = 10  # a cost is not told how many there are


def passes(each: float, option: str = "epochs") -> Cost:
    """An option counts passes over the images, of which each costs so many training steps an image."""
    return lambda options, n: each * options[option] * n


def looks(often: int) -> Cost:
    """It trains nothing, and asks a model so often about every image."""
    return lambda options, n: often * LOOK * n


free = looks(0)
