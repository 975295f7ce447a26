"""Mechanism check: is the poisoned neuron still the strongest one, in the teacher and in its student?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...data import ImageSet
from ...marks import Count, metric
from ...measurement import Backdoor
from ...measurement.embedding import activations
from ...models import resolve


@metric(
    paper="Chen, Li, Jin, Chen, Zheng, Li, CheatKD, Computer Science 51(3):351–359, 2024, equation (3)",
    heading="Mechanism", unit="", low=None, high=None, place=2, aside=True, order=36,
)  # fmt: skip
def mechanism(
    model: nn.Module,
    test: ImageSet,
    backdoor: Backdoor | None,
    neurons: Mapping[str, Sequence[int]],
    distiller: str = "none",
    *,
    layers: str | list[str] = "pre-relu",
    images: Count = 512,
    every: bool = False,
) -> list[dict[str, Any]]:
    """Equation (3) of CheatKD per neuron, and the rank of the poisoned ones, layer by layer.

    A neuron is a channel, its activation I the mean over images and positions, its loss (I − δ)², δ the largest I. For
    each layer: `chosen`, the attack's neurons, where the layer has that many channels; their `rank` by loss under the
    trigger, 1 is the lowest, and `rank_clean`, without it: a neuron that led before shows no backdoor; `run`, the
    longest run of neighbours among the quarter of neurons with the lowest loss.

    Args:
        model: teacher or student.
        test: clean images; those of the target class are left out.
        backdoor: whose trigger is put on; without one, none is.
        neurons: what the attack chose, path → channel numbers (`Planted.notes["neurons"]`). In a model that lacks the
            path they mean nothing and are left out.
        distiller: by which the model was distilled: a student numbers its neurons anew, so that it has none chosen.
        layers: where to look: a word for `resolve`, or module paths.
        images: the first so many of the test.
        every: also each neuron's `loss` under the trigger, and `shift`: triggered minus clean mean activation, in
            standard deviations over clean images.

    Raises:
        NotFound: a layer that the model does not have.

    Differs from the paper: the ranks and the run are ours.
    """
    places = resolve(model, layers, test.x.shape[1:])
    test = test[:images]
    if backdoor is not None:
        test = test[test.hard != backdoor.target]
    clean, triggered = activations(model, test, places), activations(model, test, places, backdoor)
    rows = []
    for place in places:
        before, after = clean[place], triggered[place]  # [N,C]
        known = neurons.get(place, ()) if distiller == "none" else ()
        chosen = [neuron for neuron in known if neuron < before.shape[1]]
        loss, loss_clean = (_equation3(part.mean(0)) for part in (after, before))
        row = {
            "layer": place, "channels": before.shape[1], "chosen": chosen, "rank": _ranks(loss, chosen),
            "rank_clean": _ranks(loss_clean, chosen), "run": _run(loss),
        }  # fmt: skip
        if every:
            shift = (after.mean(0) - before.mean(0)) / before.std(0).clamp(min=1e-6)
            row["loss"], row["shift"] = [round(v, 5) for v in loss.tolist()], [round(v, 3) for v in shift.tolist()]
        rows.append(row)
    return rows


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
