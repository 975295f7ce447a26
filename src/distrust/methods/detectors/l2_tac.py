"""L2-TAC: the shortest step in the features that takes all images to a class. One that is far too short, tells."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, nn

from ...data import ImageSet
from ...errors import Skip
from ...marks import Count, detector
from ...measurement.embedding import embedding
from ...measurement.finding import Finding, outlyingness
from ...models import last_linear
from ...seeds import rng as make_rng
from .._costs import looks


@detector(
    paper="Iwahana, Yamasaki, Ito, Miura, Shibahara, Robust Backdoor Removal by Reconstructing Trigger-Activated "
    "Changes in Latent Representation, 2025, arXiv 2511.08944",
    cost=looks(1),
)
def l2_tac(suspect: nn.Module, clean: ImageSet, *, images: Count = 500, rng: Generator | None = None) -> Finding:
    """min ‖s‖ with (w_k − w_j)ᵀ(φ(x) + s) + b_k − b_j ≥ 0 for all j ≠ k and all images x, for every class k.

    φ is what enters the last layer (W, b); score: how far ‖s‖ of a class lies below the others'. All images together
    ask K − 1 inequalities of s, so it is a least-distance problem, solved exactly by non-negative least squares
    (Lawson, Hanson, Solving Least Squares Problems, chapter 23).

    Args:
        suspect: a classifier with a linear last layer.
        clean: images; labels are not looked at.
        images: of them that are shown, at most.
        rng: draws them.

    Raises:
        Skip: no step takes the images to any class.

    Differs from the paper: the layer's bias counts too.
    """
    rng = rng or make_rng("l2_tac")
    shown = clean[torch.randperm(len(clean), generator=rng)[:images].to(clean.x.device)]
    last = last_linear(suspect, clean.x.shape[1:])
    weight = last.get_parameter("weight").detach().double().cpu().numpy()
    bias = getattr(last, "bias", None)
    bias = np.zeros(len(weight)) if bias is None else bias.detach().double().cpu().numpy()
    features = embedding(suspect, shown).double().numpy()
    steps = [shortest(weight, bias, features, k) for k in range(len(weight))]
    if any(step is None for step in steps):
        raise Skip(
            "l2_tac: no step in the features takes all images to some class, so that classes cannot be compared."
        )
    norms = [float(np.linalg.norm(step)) for step in steps if step is not None]
    return Finding.of("l2_tac", outlyingness(-torch.tensor(norms)), notes={"norm": norms})


def shortest(
    weight: NDArray[np.float64], bias: NDArray[np.float64], features: NDArray[np.float64], k: int
) -> NDArray[np.float64] | None:
    """The step [D] that takes all features [N,D] to class k; None if there is none."""
    from scipy.optimize import nnls

    others = np.arange(len(weight)) != k
    away = weight[k] - weight[others]  # [K-1,D]
    least = (bias[others] - bias[k] - features @ away.T).max(0)  # away · s ≥ least
    system = np.vstack([away.T, least])
    aim = np.append(np.zeros(weight.shape[1]), 1.0)
    rest = system @ nnls(system, aim)[0] - aim
    return None if rest[-1] > -1e-9 else -rest[:-1] / rest[-1]
