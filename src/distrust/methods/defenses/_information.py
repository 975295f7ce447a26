"""Mutual information between a layer and an encoder's output, by the Donsker-Varadhan bound. MINE, arXiv 1801.04062."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import PLAIN, ImageSet
from ...models import at_once, eval_mode, taps
from ...seeds import seeded, spawn
from ...training import Training, loop

BATCH = 256  # images at a time where nothing is learnt
HIDDEN = 512
LAST = 10  # epochs over whose steps the bound is averaged


def informed(
    encoder: nn.Module, paths: Sequence[str], clean: ImageSet, *, epochs: int, batch_size: int, rng: Generator
) -> list[float]:
    """Nats that each layer shares with the features, of plain images; features have length 1, as in MIMIC's code."""
    device = next(encoder.parameters()).device
    nats = []
    for path in paths:  # one at a time: a layer's features are many times the images
        with taps(encoder, [path]) as read, eval_mode(encoder), torch.no_grad():
            seen = [read(x.to(device)) for x, _ in clean.batches(at_once(clean.x.shape[1:], BATCH))]
        layer = torch.cat([part.features[path].float() for part in seen])
        output = F.normalize(torch.cat([part.logits.float() for part in seen]), dim=1)
        del seen
        nats.append(information(layer, output, epochs=epochs, batch_size=batch_size, rng=spawn(rng)))
    return nats


class Critic(nn.Module):
    """T: two hidden layers of 512. Its first is a sum over f and z, so that f, by far the widest, enters it once."""

    def __init__(self, f: int, z: int) -> None:
        super().__init__()
        self.f, self.z = nn.Linear(f, HIDDEN), nn.Linear(z, HIDDEN, bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, f: Tensor, z: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """T(f, z) and T(f, z') [B], z' the z of `other`."""
        from_f, from_z = self.f(f), self.z(z)
        joint, product = self.rest(torch.cat([from_f + from_z, from_f + from_z[other]])).flatten().chunk(2)
        return joint, product


def information(layer: Tensor, output: Tensor, *, epochs: int, batch_size: int = 128, rng: Generator) -> float:
    """Nats ≥ 0: max_T E[T(f, z)] − log E[exp T(f, z')], z' the z of another image of the batch; T is a small MLP.

    Args:
        layer: f [N,…].
        output: z [N,D].
        epochs: passes; the bound is the mean over the steps of the last ten, a negative one counting as 0.
        batch_size: pairs a step.
        rng: decides T's start, the order and who is paired with whom.

    Raises:
        Diverged: the bound is not finite.
    """
    f = layer.flatten(1)
    width, bounds = f.shape[1], []
    rows = torch.cat([f, output], 1)[:, :, None, None]
    y = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    with seeded(spawn(rng)):
        critic = Critic(width, output.shape[1])
    draw = spawn(rng)

    def objective(critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        other = torch.randperm(len(x), generator=draw).to(x.device)
        joint, product = critic(*x.flatten(1).split([width, len(x[0]) - width], 1), other)
        bound = joint.mean() - (product.logsumexp(0) - math.log(len(x)))
        bounds.append(bound.detach())
        return -bound

    training = Training(
        epochs=epochs, batch_size=batch_size, optimizer="adam", lr=1e-3, weight_decay=1e-5, schedule="constant",
        augment=PLAIN, precision="fp32", memory_format="contiguous",
    )  # fmt: skip
    pairs = ImageSet(rows, y, ("pair",), "pairs", off_range=True)
    loop(critic, pairs, objective, training, rng=rng, device=rows.device)
    return float(torch.stack(bounds[-LAST * len(bounds) // epochs :]).clamp(min=0).mean())
