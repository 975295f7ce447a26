"""What the attacks on a teacher share: what they return, and the fine-tuning that plants an optimised trigger."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import PLAIN, Augment, ImageSet
from ...measurement import Backdoor
from ...models import last_linear
from ...seeds import spawn
from ...training import Training, fit
from ...training.fastest import fastest
from ._poison import plant


class Planted(NamedTuple):
    """A backdoored teacher, its backdoor, and what the attack noted on the way."""

    model: nn.Module
    backdoor: Backdoor
    notes: dict[str, Any]  # JSON-able: loss curve, chosen neurons, …


def search_cost(options: dict[str, Any], n: int) -> float:
    """Of the search for a trigger, and of the fine-tuning behind it."""
    return options["steps"] * options["trigger_batch"] + options["epochs"] * n


@contextmanager
def fast(train: ImageSet, batch_size: int, *models: nn.Module) -> Iterator[None]:
    """Cast inside to what a short probe finds fastest for the first model, and lay the models out so."""
    device = next(models[0].parameters()).device
    number, order = fastest(models[0], train, Training(batch_size=batch_size), device)
    for model in models:
        layout = torch.channels_last if order == "channels_last" else torch.contiguous_format
        model.to(memory_format=layout)  # type: ignore[call-overload]
    # No cache: it would keep the first cast of a weight for the whole context, whatever training does to the weight.
    cast = torch.autocast(device.type, torch.bfloat16, enabled=number == "bf16", cache_enabled=False)
    with torch.enable_grad(), cast:
        yield
    for model in models:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def forever(images: ImageSet, size: int, rng: Generator, augment: Augment = PLAIN) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, reshuffled in every pass; the last short one of a pass is dropped."""
    while True:
        yield from images.batches(min(size, len(images)), rng, augment)


def finetune(
    model: nn.Module,
    train: ImageSet,
    backdoor: Backdoor,
    *,
    rate: float,
    training: Training,
    rng: Generator,
    keep_clean: bool = False,
    freeze_last: bool = False,
) -> nn.Module:
    """A copy of `model`, trained on clean images and a share `rate` that carries the trigger and the target's label.

    With `keep_clean`, poisoned images are added beside their clean originals instead of taking their place; with
    `freeze_last`, the last linear layer stays as it is.
    """
    poisoned, _ = plant(
        backdoor.name, train, trigger=backdoor.trigger, target=backdoor.target, rate=rate, stamp=backdoor.stamp,
        rng=spawn(rng),
    )  # fmt: skip
    if keep_clean:
        poisoned = both(train, poisoned)
    start = copy.deepcopy(model)
    if freeze_last:
        last_linear(start, train.x.shape[1:]).requires_grad_(False)
    return fit(start, poisoned, training=training, rng=spawn(rng)).requires_grad_(True)


def both(train: ImageSet, poisoned: ImageSet) -> ImageSet:
    """`poisoned`, and behind it the clean originals of the rows in which it differs from `train`."""
    changed = (poisoned.y != train.y).nonzero().flatten()
    x, y = torch.cat([poisoned.x, train.x[changed]]), torch.cat([poisoned.y, train.y[changed]])
    late = None
    if poisoned.late is not None:
        late = poisoned.late._replace(rows=torch.cat([poisoned.late.rows, torch.zeros(len(changed), dtype=torch.bool)]))
    group = None if poisoned.group is None else torch.cat([poisoned.group, poisoned.group[changed]])
    index = torch.cat([poisoned.index, train.index[changed]])
    return dataclasses.replace(poisoned, x=x, y=y, index=index, group=group, late=late)


def part_of(size: int, share: float, rng: Generator, most: int | None = None) -> int:
    """A share of a batch as a number of images: rounded at random so that its mean is the share, and at most `most`."""
    count = int(share * size + float(torch.rand((), generator=rng)))
    return min(count, size if most is None else most)


def towards(y: Tensor, count: int, target: int) -> Tensor:
    """Labels, hard [B] or soft [B,K], of which the first `count` are the target's."""
    goal = torch.full((count,), target, device=y.device)
    return torch.cat([goal if y.ndim == 1 else F.one_hot(goal, y.shape[1]).to(y), y[count:]])
