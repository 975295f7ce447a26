"""Activation clustering: split what the teacher calls one class in two, and drop the smaller half if it is small."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Generator, nn

from ...data import ImageSet
from ...marks import Count, Half, defense
from ...measurement.embedding import embedding
from ...seeds import rng as make_rng
from .._costs import looks
from ._sift import by_answer


@defense(
    paper="Chen et al., Detecting Backdoor Attacks by Activation Clustering, arXiv 1811.03728",
    on="transfer", cost=looks(2),
)  # fmt: skip
def activation_clustering(
    teacher: nn.Module,
    transfer: ImageSet,
    clean: ImageSet,
    *,
    components: Count = 10,
    share: Half = 0.35,
    rng: Generator | None = None,
) -> ImageSet:
    """For each class that the teacher says: last features → PCA → 2-means; drop the smaller cluster if below `share`.

    Args:
        teacher: the clean teacher, through whose features the images are seen.
        transfer: the images to sift.
        clean: not used.
        components: dimensions after PCA, as far as there are features.
        share: a smaller cluster is dropped if it holds less than this part (0, 0.5] of its class.
        rng: decides where k-means starts.

    Differs from the paper: PCA instead of ICA; it looks at the poisoned model's features of its own training images,
    class by label; here the teacher is clean and its answer is the class.
    """
    features = embedding(teacher, transfer).cpu().double().flatten(1).numpy()
    seed = int(torch.randint(2**31, (1,), generator=rng or make_rng("activation_clustering")))
    kept = torch.ones(len(transfer), dtype=torch.bool)
    for rows in by_answer(teacher, transfer):
        if len(rows) < 4:
            continue  # nothing to split
        part = features[rows.numpy()]
        reduced = PCA(min(components, *part.shape), random_state=seed).fit_transform(part)
        side = torch.from_numpy(KMeans(2, n_init=10, random_state=seed).fit_predict(reduced))
        small = int(side.bincount(minlength=2).argmin())
        if (side == small).double().mean() < share:
            kept[rows[side == small]] = False
    return transfer[kept]
