"""I-BAU: find what changes answers most when it is added to every image, and unlearn it through that search."""

from __future__ import annotations

import copy
from itertools import count

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import PLAIN, ImageSet
from ...marks import Count, Share, defense
from ...models import check_fits
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, loop

UNLEARNING = Training(
    epochs=5, lr=1e-3, batch_size=100, optimizer="adam", weight_decay=0.0, schedule="constant", augment=PLAIN
)  # fmt: skip
SEARCH, MAP, PENALTY = 10.0, 0.1, 0.001  # rates of the search and of the map whose fixed point it stands for; of ‖δ‖²


@defense(
    paper="Zeng, Chen, Park, Mao, Jin, Jia, Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022, "
    "arXiv 2110.03735",
    cost=lambda options, n: options["epochs"] * n * (3 + 1.2 * options["steps"]),
)  # fmt: skip
def ibau(
    model: nn.Module,
    clean: ImageSet,
    *,
    steps: Count = 5,
    share: Share = 0.01,
    training: Training = UNLEARNING,
    rng: Generator | None = None,
) -> nn.Module:
    """Each epoch: δ that maximises CE(x + δ) over all images; then a step a batch down the hypergradient of CE.

    δ starts at 0 and takes a step on −CE(x + δ, own answer) + 0.001 ‖δ‖² for every batch. The hypergradient is
    ∂L/∂θ + (∂Φ/∂θ)ᵀ v with L the CE of a batch, of which a share carries δ, Φ a step of 0.1 down the same loss on the
    first batch, true labels, and v = Σ_{k<steps} ((∂Φ/∂δ)ᵀ)ᵏ ∂L/∂δ. The model stays in eval mode.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        steps: of the fixed-point iteration, K in the paper.
        share: of a batch that carries δ, at least one image.
        training: how; an epoch is a round.
        rng: decides order, and which images carry δ.

    Raises:
        Diverged: the loss exploded; lower lr.

    Differs from the released code: batches of less than 100 images carry δ too, on one image; their order is drawn.
    """
    check_fits(model, clean)
    rng = rng or make_rng("ibau")
    model, draw, size = copy.deepcopy(model), spawn(rng), training.batch_size
    device = next(model.parameters()).device
    first = clean.pixels(slice(0, size)).to(device), clean.y[:size].to(device)
    a_round, calls, delta = max(len(clean) // size, 1), count(), torch.empty(0)

    def inner(delta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return PENALTY * delta.square().sum() - F.cross_entropy(model(x + delta).float(), y)

    def search() -> Tensor:
        delta = torch.zeros_like(first[0][:1], requires_grad=True)
        for x, _ in clean.batches(size):
            x = x.to(device)
            with torch.no_grad():
                said = model(x).argmax(1)
            (slope,) = torch.autograd.grad(inner(delta, x, said), delta)
            delta = (delta - SEARCH * slope).detach().requires_grad_()
        return delta

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal delta
        model.eval()
        delta = search() if next(calls) % a_round == 0 else delta
        carries = torch.zeros(len(x), 1, 1, 1)
        carries[torch.randperm(len(x), generator=draw)[: max(int(share * len(x)), 1)]] = 1
        outer = F.cross_entropy(model(x + delta * carries.to(device)).float(), y)
        (slope,) = torch.autograd.grad(outer, delta, retain_graph=True)
        mapped = delta - MAP * torch.autograd.grad(inner(delta, *first), delta, create_graph=True)[0]
        v = slope
        for _ in range(steps - 1):
            v = slope + torch.autograd.grad(mapped, delta, v, retain_graph=True)[0]
        implicit = (mapped * v.detach()).sum()
        return outer + implicit - implicit.detach()  # the value is L's, the gradient the hypergradient

    return loop(model, clean, objective, training, rng=rng)
