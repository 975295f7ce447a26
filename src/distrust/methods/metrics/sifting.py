"""Sifting: what a defence took away from a transfer set."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...data import ImageSet
from ...data.images import changed
from ...marks import Column, metric


@metric(
    paper="ours: the true and the false positive rate of a filter", on="transfer", aside=True, order=33,
    fields={
        "caught": Column(heading="Poisons removed", better="higher"),
        "lost": Column(heading="Clean removed", better="lower"),
    },
)  # fmt: skip
def sifting(train: ImageSet, suspect: ImageSet, cleaned: ImageSet) -> Mapping[str, float | None]:
    """Share of the poisoned images that a defence removed (caught), and of the clean ones (lost).

    Args:
        train: the images as they were before any attack on the transfer set.
        suspect: the transfer set that the defence got: poisoned is what is not, bit for bit, the image of that index.
        cleaned: what the defence left of it.

    Raises:
        BadInput: `suspect` holds an image that `train` does not have.

    Differs from the paper: there is none. Where nothing was poisoned, nothing can be caught: None.
    """
    poisoned, gone = changed(train, suspect), ~torch.isin(suspect.index, cleaned.index)
    return {
        "caught": float(gone[poisoned].double().mean()) if poisoned.any() else None,
        "lost": float(gone[~poisoned].double().mean()),
    }
