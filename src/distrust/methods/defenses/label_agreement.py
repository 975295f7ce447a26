"""Label agreement: drop transfer images whose label the teacher does not share."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...marks import Part, defense
from .._costs import looks
from ._sift import answers, keep


@defense(paper="ours: the check of a curator who has labels", on="transfer", cost=looks(1))
def label_agreement(
    teacher: nn.Module, transfer: ImageSet, clean: ImageSet, *, lose: Part = 0.05, rng: Generator | None = None
) -> ImageSet:
    """Keep images to whose label the teacher gives a probability that clean images reach.

    Args:
        teacher: the clean teacher.
        transfer: the images to sift, with labels.
        clean: trusted images, which set the threshold.
        lose: share 0..1 of the clean images that may be lost: the threshold is their quantile.
        rng: not used.

    Differs from the paper: there is none. Where transfer images have no labels, or the teacher's own, it sees nothing.
    """

    def scores(images: ImageSet) -> Tensor:
        p = answers(teacher, images)
        return -p[torch.arange(len(p)), images.hard.cpu()]

    return keep(transfer, scores(transfer), scores(clean), lose)
