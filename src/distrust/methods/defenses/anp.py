"""ANP: channels whose masks shrink while the network is made to bear noise on its channels are a backdoor's."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, NonNegative, Part, Rate, defense
from ...models import check_fits
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from ._masks import Masked, batch_norms, learn_masks, prune

MASKS = Training(epochs=100, lr=0.2, batch_size=128, nesterov=False, weight_decay=0.0, schedule="constant")


@defense(
    paper="Wu, Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021, arXiv 2110.14430",
    cost=lambda options, n: options["epochs"] * n * (1 + options["steps"]),
)
def anp(
    model: nn.Module,
    clean: ImageSet,
    *,
    threshold: Part = 0.2,
    epsilon: NonNegative = 0.4,
    alpha: Rate = 0.2,
    steps: Count = 1,
    training: Training = MASKS,
    rng: Generator | None = None,
) -> nn.Module:
    """Learn masks m on BatchNorm channels by α CE(m) + (1 − α) max_{δ,ξ} CE(m + δ, 1 + ξ); prune those that are small.

    Scales are γ · (m + δ), biases β · (1 + ξ). Noise starts at U(−ε, ε), and `steps` steps of ε / steps follow the
    sign of the gradient. A pruned channel's scale is 0.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        threshold: a channel whose mask is no higher is pruned, 0..1; let a study tune it, high values first.
        epsilon: ε ≥ 0, size of the noise.
        alpha: weight 0..1 of the network without noise.
        steps: of the search for the worst noise.
        training: how masks are learnt; their rate is its rate.
        rng: decides order, augmentation and noise.

    Raises:
        Skip: no BatchNorm.
        Diverged: the loss exploded; lower lr.

    Differs from the released code: it draws 2000 batches with replacement, and tries thresholds from 0 to 0.9 on test
    images. As there, noise is not put back into ±ε after its step.
    """
    check_fits(model, clean)
    rng = rng or make_rng("anp")
    draw = spawn(rng)
    layers = batch_norms(model, "anp").values()

    def loss(masked: Masked, x: Tensor, y: Tensor) -> Tensor:
        drawn = [epsilon * (2 * torch.rand(2, norm.num_features, generator=draw) - 1) for norm in layers]
        noise = [part.to(x.device).requires_grad_() for part in drawn]
        for _ in range(steps):
            slopes = torch.autograd.grad(F.cross_entropy(masked(x, noise), y), noise)
            noise = [
                (n + epsilon / steps * s.sign()).detach().requires_grad_() for n, s in zip(noise, slopes, strict=True)
            ]
        worst, plain = F.cross_entropy(masked(x, noise), y), F.cross_entropy(masked(x, None), y)
        return alpha * plain + (1 - alpha) * worst

    return prune(model, learn_masks(model, clean, loss, method="anp", training=training, rng=rng), threshold)
