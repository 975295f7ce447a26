"""Mechanism check: is the poisoned neuron still the strongest one, in the teacher and in its student?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.images import ImageSet
from ..models import eval_mode, resolve, taps
from .backdoor import Backdoor
from .predict import BATCH


class Neurons(NamedTuple):
    """One layer under the trigger; a neuron is a channel, its activation the mean over images and positions."""

    layer: str
    channels: int
    chosen: list[int]  # of the attack, where this layer has that many channels; else empty
    rank: list[int]  # of the chosen, by equation 3 under the trigger: 1 is the lowest loss
    rank_clean: list[int]  # the same without the trigger: a neuron that led before shows no backdoor
    loss: list[float]  # (I − δ)² per neuron under the trigger, δ the largest mean activation (CheatKD, equation 3)
    shift: list[float]  # per neuron, triggered minus clean mean activation, in standard deviations over clean images
    run: int  # longest run of neighbours among the quarter of neurons with the lowest loss


def mechanism(
    model: nn.Module,
    images: ImageSet,
    backdoor: Backdoor | None,
    neurons: Mapping[str, Sequence[int]] | None = None,
    layers: str | Sequence[str] = "pre-relu",
) -> list[Neurons]:
    """Equation (3) of CheatKD per neuron, and the rank of the poisoned ones, layer by layer.

    Args:
        model: teacher or student.
        images: clean images; those of the target class are left out.
        backdoor: whose trigger is put on.
        neurons: what the attack chose, path → channel numbers (`Planted.notes["neurons"]`). In a model that lacks
            the path they mean nothing and are left out.
        layers: where to look: a word for `resolve`, or module paths.

    Raises:
        NotFound: a layer that the model does not have.
    """
    places = resolve(model, layers, images.x.shape[1:])
    if backdoor is not None:
        images = images[images.hard != backdoor.target]
    clean = _activations(model, images, places, None)
    triggered = _activations(model, images, places, backdoor)
    rows = []
    for place in places:
        before, after = clean[place], triggered[place]  # [N,C]
        width = before.shape[1]
        chosen = [n for n in (neurons or {}).get(place, ()) if n < width]
        loss, loss_clean = (_equation3(part.mean(0)) for part in (after, before))
        shift = (after.mean(0) - before.mean(0)) / before.std(0).clamp(min=1e-6)
        rows.append(
            Neurons(
                place, width, chosen, _ranks(loss, chosen), _ranks(loss_clean, chosen),
                [round(v, 5) for v in loss.tolist()], [round(v, 3) for v in shift.tolist()], _run(loss),
            )
        )  # fmt: skip
    return rows


def embedding(model: nn.Module, images: ImageSet, backdoor: Backdoor | None = None) -> Tensor:
    """What enters the last linear layer [N,D], of images stamped first if a backdoor is given."""
    (place,) = resolve(model, "embedding", images.x.shape[1:])
    return _activations(model, images, [place], backdoor)[place]


def _activations(model: nn.Module, images: ImageSet, places: Sequence[str], backdoor: Backdoor | None) -> dict:
    """Place → [N,C]: every image's activations, averaged over positions, on the CPU."""
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {place: [] for place in places}
    with taps(model, places) as read, eval_mode(model), torch.no_grad():
        for x, _ in images.batches(BATCH):
            x = x.to(device)
            features = read(backdoor.stamp_on(x) if backdoor else x).features
            for place, feature in features.items():
                found[place].append((feature.flatten(2).mean(2) if feature.ndim > 2 else feature).float().cpu())
    return {place: torch.cat(parts) for place, parts in found.items()}


def _equation3(means: Tensor) -> Tensor:
    """(I − δ)² of every neuron's mean activation I [C], δ = max(I)."""
    return (means - means.max()).square()


def _ranks(loss: Tensor, chosen: Sequence[int]) -> list[int]:
    order = loss.argsort(stable=True).tolist()
    return [order.index(neuron) + 1 for neuron in chosen]


def _run(loss: Tensor) -> int:
    low = set(loss.argsort(stable=True)[: max(len(loss) // 4, 1)].tolist())
    best = now = 0
    for neuron in range(len(loss)):
        now = now + 1 if neuron in low else 0
        best = max(best, now)
    return best
