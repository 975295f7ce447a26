"""SAU: unlearn the adversarial images that fool the suspect and its cleaned copy in the same way."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import PLAIN, ImageSet
from ...marks import Count, NonNegative, Rate, defense
from ...models import check_fits, frozen
from ...seeds import rng as make_rng
from ...training import Training, loop

UNLEARNING = Training(
    epochs=100, lr=1e-4, batch_size=256, optimizer="adam", weight_decay=0.0, schedule="cosine", augment=PLAIN
)  # fmt: skip


@defense(
    paper="Wei, Zhang, Zha, Wu, Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared Adversarial "
    "Examples, NeurIPS 2023, arXiv 2307.10562",
    cost=lambda options, n: options["epochs"] * n * (1.5 + 1.1 * options["steps"]),
)  # fmt: skip
def sau(
    model: nn.Module,
    clean: ImageSet,
    *,
    radius: Rate = 0.2,
    steps: Count = 5,
    beta: NonNegative = 0.01,
    shared: NonNegative = 1.0,
    training: Training = UNLEARNING,
    rng: Generator | None = None,
) -> nn.Module:
    """Lower CE(x) + shared · S on the images x + δ that the suspect takes for another class y'; the δ are searched for.

    S = −½ (log Σ_{k≠y'} p_k + log(1 − p_y')) of the copy at x + δ, summed over these images and divided by the batch. δ
    starts at +radius, and sign steps within ±radius lower JS(p, p_suspect), for images not yet shared, − β · ½ the CE
    of both models, each for images that it still answers as without δ. Both models stay in eval mode.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        radius: bound 0..1 of δ in pixel units, and the length of a step.
        steps: of the search, at most; it ends when all images of a batch are shared.
        beta: weight β ≥ 0 of the two cross-entropies.
        shared: weight ≥ 0 of S.
        training: how; by Adam.
        rng: decides the order.

    Raises:
        Diverged: the loss exploded; lower lr.

    Differs from the released code: its weight for the cross-entropy of x + δ, 0 by default, is left out; a short last
    batch is dropped.
    """
    check_fits(model, clean)
    suspect, tiny = frozen(model), 1e-8

    def search(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        delta = torch.full_like(x, radius)
        with torch.no_grad():
            plain = model(x).argmax(1), suspect(x).argmax(1)
        for _ in range(steps):
            delta.requires_grad_()
            ours, theirs = model(x + delta).float(), suspect(x + delta).float()
            fooled, fooled_too = ours.argmax(1) != plain[0], theirs.argmax(1) != plain[1]
            alone = ~(fooled & fooled_too & (ours.argmax(1) == theirs.argmax(1)))
            if not alone.any():
                break
            entropies = [F.cross_entropy(z, y, reduction="none") for z in (ours, theirs)]
            wrong = (entropies[0] * ~fooled + entropies[1] * ~fooled_too).sum() / 2
            p, q = (z.softmax(1).clamp(min=tiny) for z in (ours, theirs))
            middle = ((p + q) / 2).log()
            apart = ((p * (p.log() - middle) + q * (q.log() - middle)).sum(1) * alone).sum() / 2
            (slope,) = torch.autograd.grad(apart - beta * wrong, delta)
            delta = (delta - radius * slope.sign()).clamp(-radius, radius).detach()
        return delta.detach()

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.eval()
        moved = x + search(model, x, y)
        logits, p = model(torch.cat([x, moved])).float().split(len(x))
        with torch.no_grad():
            said = suspect(moved).argmax(1)
            right = y if y.ndim == 1 else y.argmax(1)
            led = (said != right) & (said != suspect(x).argmax(1))
        p = p.softmax(1).gather(1, said[:, None])[led]
        others, own = (1 - p).clamp(max=0.999) + 1e-6, 1 + 1e-6 - p.clamp(min=0.001)
        return F.cross_entropy(logits, y) - shared * (others.log().sum() + own.log().sum()) / 2 / len(x)

    return loop(
        copy.deepcopy(model), clean, objective, training, rng=rng or make_rng("sau"), beside=suspect
    )  # fmt: skip
