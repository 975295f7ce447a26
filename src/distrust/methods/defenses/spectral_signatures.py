"""Spectral signatures: drop the images that lie farthest along a class's main direction."""

from __future__ import annotations

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...marks import Part, defense
from ...measurement.embedding import embedding
from .._costs import looks
from ._sift import by_answer


@defense(
    paper="Tran, Li, Mądry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, 1811.00636",
    on="transfer", cost=looks(2),
)  # fmt: skip
def spectral_signatures(
    teacher: nn.Module, transfer: ImageSet, clean: ImageSet, *, share: Part = 0.15, rng: Generator | None = None
) -> ImageSet:
    """For each class that the teacher says: score ⟨f − mean, v⟩², v the top singular vector; drop the highest `share`.

    Args:
        teacher: the clean teacher, through whose features f the images are seen.
        transfer: the images to sift.
        clean: not used.
        share: part 0..1 of every class that is dropped, poisoned or not. 1.5 × the expected rate in the paper, which
            takes it for known; 0.15 in BackdoorBench.
        rng: not used.

    Differs from the paper: it looks at the poisoned model's features of its own training images, class by label; here
    the teacher is clean and its answer is the class.
    """
    features = embedding(teacher, transfer).cpu().double().flatten(1)
    kept = torch.ones(len(transfer), dtype=torch.bool)
    for rows in by_answer(teacher, transfer):
        centred = features[rows] - features[rows].mean(0)
        direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        order = (centred @ direction).square().argsort(descending=True)
        kept[rows[order[: int(share * len(rows))]]] = False
    return transfer[kept]
