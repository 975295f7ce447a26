"""Difference: how far an attack moved a synthetic set."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...data import ImageSet
from ...marks import Column, metric
from ...measurement.predict import BATCH


@metric(
    paper="ours", place=4, aside=True, order=32,
    fields={
        "poison_added": Column(heading="Images added", unit="count", low=None, high=None),
        "poison_share": Column(heading="Images changed"),
        "poison_linf": Column(heading="Largest change, grey levels", unit="", high=None),
        "poison_l2": Column(heading="Norm of the change", unit="", high=None),
    },
)  # fmt: skip
def difference(before: ImageSet, poisoned: ImageSet) -> Mapping[str, float]:
    """Count the images that were added, and the share of the others that was changed; and how far those went.

    poison_linf and poison_l2 are means over the changed images: the largest change of a pixel, in grey levels 0..255,
    and the Euclidean norm of the change, pixels in 0..1.

    Args:
        before: the clean synthetic set.
        poisoned: the attacked one: its images in the same order, then those that were added.

    Differs from the paper: there is none.
    """
    most, length = [], []
    for part in torch.arange(len(before)).split(BATCH):
        moved = (poisoned.pixels(part).cpu() - before.pixels(part).cpu()).flatten(1)
        most.append(moved.abs().amax(1))
        length.append(moved.norm(dim=1))
    linf, l2 = torch.cat(most), torch.cat(length)
    touched = linf > 0
    n = int(touched.sum())
    return {
        "poison_added": len(poisoned) - len(before), "poison_share": n / len(before),
        "poison_linf": float(linf[touched].mean() * 255) if n else 0.0,
        "poison_l2": float(l2[touched].mean()) if n else 0.0,
    }  # fmt: skip
