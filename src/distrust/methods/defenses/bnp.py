"""BNP: channels that see clean images unlike what they were trained on were trained on something else."""

from __future__ import annotations

import copy

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...marks import NonNegative, defense
from ...models import at_once, taps
from .._costs import looks
from ._masks import batch_norms

BATCH = 128


@defense(
    paper="Zheng, Tang, Li, Liu, Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022",
    unlabelled=True,
    cost=looks(1),
)
def bnp(model: nn.Module, clean: ImageSet, *, u: NonNegative = 3.0, rng: Generator | None = None) -> nn.Module:
    """Set the scale of a BatchNorm channel to 0 if KL(clean ‖ running) exceeds its layer's mean + u · std.

    Both are taken for Gaussian: log(σ₂/σ₁) + (σ₁² + (μ₁ − μ₂)²) / (2 σ₂²) − ½, with 1 what comes in on clean images and
    2 the running statistics. Nothing is trained, and no label is looked at.

    Args:
        model: the suspect.
        clean: the defender's images.
        u: threshold in standard deviations over the layer's channels; let a study tune it, low values first.
        rng: not used.

    Raises:
        Skip: no BatchNorm.

    Differs from the released code: the moments are those of all images, not of a batch of 500, and both variances get
    BatchNorm's ε. BackdoorBench takes twice the logarithm, sets biases to 0 too, and its statistics are those of a
    batch of poisoned training images.
    """
    pruned = copy.deepcopy(model).eval()
    norms = batch_norms(pruned, "bnp")
    device = next(pruned.parameters()).device
    places = {path: f"{path}:input" for path in norms}
    sums = {path: torch.zeros(3, norm.num_features, dtype=torch.float64) for path, norm in norms.items()}
    with taps(pruned, [*places.values()]) as read, torch.no_grad():
        for x, _ in clean.batches(at_once(clean.x.shape[1:], BATCH)):
            features = read(x.to(device)).features
            for path, place in places.items():
                values = features[place].transpose(0, 1).flatten(1).cpu().double()
                ones = torch.ones_like(values)
                sums[path] += torch.stack([ones.sum(1), values.sum(1), values.square().sum(1)])
        for path, norm in norms.items():
            count, total, squares = sums[path]
            mean = total / count
            ours = (squares / count - mean.square()).clamp(min=0) + norm.eps
            theirs = norm.get_buffer("running_var").cpu().double() + norm.eps
            far = (mean - norm.get_buffer("running_mean").cpu()).square()
            divergence = (theirs / ours).log() / 2 + (ours + far) / (2 * theirs) - 0.5
            norm.weight[(divergence > divergence.mean() + u * divergence.std()).to(device)] = 0
    return pruned
