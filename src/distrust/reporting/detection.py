"""Detection: how well a detector tells attacked suspects from clean ones, over a study's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .rows import NAMES, Cell, finite, given

MISSED = 0.05  # share of clean suspects above the threshold, on the seeds that set it


class Detection(NamedTuple):
    """One detector over all suspects of a study."""

    detector: str
    attacked: int
    clean: int
    auroc: float  # chance that an attacked suspect scores higher than a clean one
    found: float | None  # share of attacked suspects above the threshold, on the seeds that did not set it
    alarms: float | None  # share of clean ones, likewise
    named: float | None  # share of attacked suspects whose target is the most suspicious class, if it names one


def detections(cells: Sequence[Cell]) -> list[Detection]:
    """For each detector: AUROC over all suspects, and what a threshold does that other seeds' clean suspects set.

    The threshold is set on the clean suspects of the even seeds, so that a share of at most 5 % of them lies above, and
    counted on the odd seeds; a study of one seed has none. A control that several attacks share counts once.
    """
    scored = [cell for cell in cells if finite(cell.get("score")) and given(cell, "detector")]
    if not scored:
        return []
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
        gaps = np.subtract.outer([score for _, score in suspects], [score for _, score in clean])
        auroc = (np.sign(gaps).mean() + 1) / 2  # a tie counts half; scikit-learn's takes two seconds to import
        pointed = [look["suspect"] == look["target"] for look in attacked if look.get("suspect") is not None]
        setting = [score for seed, score in clean if seed % 2 == 0]
        counted = [[score for seed, score in part if seed % 2] for part in (suspects, clean)]
        told, alarms = None, None
        if setting and all(counted):
            threshold = np.quantile(setting, 1 - MISSED, method="higher")
            told, alarms = (float(np.mean(np.array(scores) > threshold)) for scores in counted)
        named = sum(pointed) / len(pointed) if pointed else None
        found.append(Detection(name, len(suspects), len(clean), float(auroc), told, alarms, named))
    return found
