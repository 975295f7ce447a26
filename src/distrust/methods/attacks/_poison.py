"""What the attacks on training data share: who is stamped, when, and the record of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from ...data import ImageSet, Late
from ...data.images import CHUNK, as_8_bit, stored
from ...data.mapped import collected, rows_within
from ...errors import BadInput
from ...measurement import Backdoor, make_trigger
from ...seeds import rng as make_rng

Stamp = Literal["before", "after"]


class Poisoned(NamedTuple):
    """A poisoned training set, and the backdoor that training on it should plant."""

    images: ImageSet
    backdoor: Backdoor


def plant(
    name: str,
    train: ImageSet,
    *,
    trigger: Any,
    target: int,
    rate: float,
    stamp: Stamp,
    rng: Generator | None,
    clean_label: bool = False,
    change: Callable[[Tensor], Tensor] | None = None,
    **defaults: Any,
) -> Poisoned:
    """Stamp random images of other classes and give them the target's label, or, with `clean_label`, its own images.

    Args:
        name: of the attack.
        train: the training images.
        trigger: a trigger module or selector.
        target: class number.
        rate: share 0..1 that is stamped: of all images, or, with `clean_label`, of the target's.
        stamp: "before" augmentation or "after" it.
        rng: decides who (default: a fixed stream).
        clean_label: labels stay.
        change: rows int64 [m] → their images [m,C,H,W] in 0..1 as they are stamped (default: as they are).
        **defaults: options of the trigger, unless it says them itself.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1 or of no image, a trigger that does not fit, or soft
            labels.
    """
    check_target(train, target, rate)
    if train.y.ndim != 1:
        raise BadInput(f"{name} relabels class numbers; {train.name} has soft labels. Use train.replace(y=train.hard).")
    if stamp not in ("before", "after"):
        raise BadInput(f"stamp={stamp!r} is neither 'before' nor 'after' (augmentation).")
    rng = rng or make_rng(name)
    backdoor = Backdoor(make_trigger(trigger, **defaults), target, stamp=stamp, name=name)
    own = train.hard == target
    candidates = (own if clean_label else ~own).nonzero().flatten()
    count = counted(rate, len(candidates if clean_label else train), len(candidates))
    order = torch.randperm(len(candidates), generator=rng)  # nested: a higher rate stamps the same rows and more
    rows = candidates[order[:count]].sort().values.cpu()
    if not len(rows):
        return Poisoned(train, backdoor)
    y = train.y.clone()
    if not clean_label:
        y[rows] = target
    parts, pixels = rows.split(rows_within(train.x, CHUNK)), change or train.pixels
    if stamp == "before":
        stamped = (backdoor.stamp_on(pixels(part)) for part in parts)
        return Poisoned(repaint(train, rows, stamped, name).replace(y=y), backdoor)
    backdoor.stamp_on(train.pixels(rows[:1]))  # a trigger that does not fit fails here
    late = torch.zeros(len(train), dtype=torch.bool)
    late[rows] = True
    if change:
        train = train.replace(x=repaint(train, rows, map(as_8_bit, map(change, parts)), name).x)
    poisoned = train.replace(y=y, late=Late(late, backdoor.trigger), taint=(*train.taint, name))
    return Poisoned(poisoned, backdoor)


def repaint(images: ImageSet, rows: Tensor, pixels: Iterable[Tensor], name: str) -> ImageSet:
    """The set with other pixels, in 0..1 on 8 bits and part after part [m,C,H,W], in `rows` int64 [M]; by `name`."""
    x = images.x.clone()
    x[rows] = collected(stored(part, x) for part in pixels)
    return images.replace(x=x, taint=(*images.taint, name))


def check_target(train: ImageSet, target: int, rate: float) -> None:
    """Refuse a target that is no class, and a rate outside 0..1.

    Raises:
        BadInput: says what the classes are.
    """
    k = len(train.classes)
    if not (isinstance(target, int) and 0 <= target < k):
        listing = ", ".join(f"{i} {name}" for i, name in enumerate(train.classes[:12])) + (", …" if k > 12 else "")
        raise BadInput(f"target={target!r} is no class; {train.name} has {k} classes: {listing}. Give 0..{k - 1}.")
    if not 0 <= rate <= 1:
        raise BadInput(f"rate={rate} is outside [0, 1]; it is a fraction: type 0.1 for 10 %.")


def counted(rate: float, of: int, there: int) -> int:
    """How many images a rate is; 0 only for a rate of 0.

    Args:
        rate: share 0..1.
        of: how many images it is a share of.
        there: how many can be taken.

    Raises:
        BadInput: it rounds to none, or there are none.
    """
    if rate and not there:
        raise BadInput(f"rate={rate:g}, but none of the images is of a class that is poisoned. Give another target.")
    if rate and not round(rate * of):
        raise BadInput(f"rate={rate:g} of {of} images is no image. Give {1 / of:.2g} or more, or 0 for a clean set.")
    return round(rate * of)
