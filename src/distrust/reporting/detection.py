"""Detection: how well a detector tells attacked suspects from clean ones, over a study's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..intervals import Share
from .rows import NAMES, Cell, finite, given

LEVEL = 0.05  # of false alarms, where there are clean suspects enough to tell


class Detection(NamedTuple):
    """One detector over all suspects of a study."""

    detector: str
    attacked: int
    clean: int
    auroc: float  # chance that an attacked suspect scores higher than a clean one
    level: float | None  # of p below which a suspect is called attacked: 5 %, or the least that the clean ones resolve
    found: Share | None  # of the attacked suspects, those that are called so
    alarms: Share | None  # of the clean ones, likewise
    named: Share | None  # of the attacked suspects, those whose target is the most suspicious class, if it names one


def detections(cells: Sequence[Cell]) -> list[Detection]:
    """For each detector: AUROC over all suspects, and what it finds at a level that other seeds' clean suspects set.

    A suspect's p is (1 + how many clean ones score as high) / (N + 1), of N clean suspects of the other half of the
    seeds, even or odd; each half is judged by the other, and a study of one seed has no p. N resolves nothing below
    1 / (N + 1). A control that several attacks share counts once.
    """
    scored = [cell for cell in cells if finite(cell.get("score")) and given(cell, "detector")]
    found = []
    for name in dict.fromkeys(cell["detector"] for cell in scored):
        looks = [cell for cell in scored if cell["detector"] == name]
        attacked = [look for look in looks if given(look, "attack")]
        twins = {  # who shares everything but the attack shares the control
            (*(given(look, axis) for axis in NAMES if axis != "attack"), look["seed"]): score
            for look in looks
            if (score := look.get("score_control") if given(look, "attack") else look["score"]) is not None
        }
        if not attacked or not twins:
            continue
        suspects = [(look["seed"], look["score"]) for look in attacked]
        clean = [(key[-1], score) for key, score in twins.items()]
        area = auroc([score for _, score in suspects], [score for _, score in clean])
        pointed = [look["suspect"] == look["target"] for look in attacked if look.get("suspect") is not None]
        halves = [[score for seed, score in clean if seed % 2 == half] for half in (0, 1)]
        level, told, alarms = None, None, None
        if all(halves):
            level = max(LEVEL, *(1 / (len(half) + 1) for half in halves))
            told, alarms = (_called(some, halves, level) for some in (suspects, clean))
        named = Share(sum(pointed), len(pointed)) if pointed else None
        found.append(Detection(name, len(suspects), len(clean), area, level, told, alarms, named))
    return found


def auroc(attacked: Sequence[float], clean: Sequence[float]) -> float:
    """How often an attacked one scores higher than a clean one; a tie counts half.

    scikit-learn's takes two seconds to import.
    """
    return float((np.sign(np.subtract.outer(attacked, clean)).mean() + 1) / 2)


def _called(suspects: Sequence[tuple[int, float]], halves: Sequence[Sequence[float]], level: float) -> Share:
    """How many have a p of at most `level` among the clean ones of the other half."""
    others = [(score, halves[1 - seed % 2]) for seed, score in suspects]
    ps = [(1 + sum(one >= score for one in clean)) / (len(clean) + 1) for score, clean in others]
    return Share(sum(p <= level for p in ps), len(ps))
