"""Detection: how well a detector tells attacked suspects from clean ones, over a study's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .aggregate import AXES

Cell = dict[str, Any]

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
    from sklearn.metrics import roc_auc_score  # takes a second to import

    by_detector: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.get("score") is not None:
            by_detector.setdefault(cell["detector"], []).append(cell)
    found = []
    for name, rows in by_detector.items():
        positive = [(row["seed"], row["score"]) for row in rows if row["attack"] != "none"]
        negative = list(_clean(rows).values())
        if not positive or not negative:
            continue
        labels = [1] * len(positive) + [0] * len(negative)
        auroc = float(roc_auc_score(labels, [score for _, score in positive + negative]))
        pointed = [row for row in rows if row["attack"] != "none" and row["suspect"] is not None]
        named = sum(row["suspect"] == row["target"] for row in pointed) / len(pointed) if pointed else None
        setting = [score for seed, score in negative if seed % 2 == 0]
        ours, theirs = ([score for seed, score in part if seed % 2] for part in (positive, negative))
        hits = alarms = None
        if setting and ours and theirs:
            threshold = np.quantile(setting, 1 - MISSED, method="higher")
            hits, alarms = (float(np.mean(np.array(part) > threshold)) for part in (ours, theirs))
        found.append(Detection(name, len(positive), len(negative), auroc, hits, alarms, named))
    return found


def _clean(rows: Sequence[Cell]) -> dict[tuple[Any, ...], tuple[int, float]]:
    """Each clean suspect once: who shares everything but the attack shares the control."""
    found = {}
    for row in rows:
        key = tuple(row.get(axis) for axis in AXES if axis not in ("attack", "place")) + (row["seed"],)
        score = row["score"] if row["attack"] == "none" else row.get("score_control")
        if score is not None:
            found[key] = (row["seed"], score)
    return found
