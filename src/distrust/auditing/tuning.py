"""Tuning: a defence's rate is chosen on a part of the clean images that it does not see, by the rule of a study."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..data import ImageSet, split
from ..errors import BadInput, Diverged
from ..measurement import accuracy
from ..registry import Method
from ..seeds import rng
from ..selectors import Selector, Tune

LADDER = (1.0, 0.3, 0.1, 0.03)  # times a defence's own rate
WITHIN = 0.05  # validation ACC that a candidate may cost
SHARE, MOST = 0.2, 2000  # of the clean images that validate
FEWEST = 10  # clean images to choose on


@dataclass(frozen=True)
class Cleaned:
    """What a defence made, and how its options were chosen.

    Args:
        model: what it made.
        images: how many images it saw.
        options: all of its options.
        facts: of a choice: what was `chosen`, the `candidates`, and ACC on `validation` images.
        text: the same in words; "" without a choice.
    """

    model: nn.Module
    images: int
    options: dict[str, Any]
    facts: dict[str, Any]
    text: str = ""


def tuned(defense: Method, selector: Selector) -> Selector:
    """The selector with candidates for the rate, the largest first, where a defence of classifiers has one unnamed."""
    rate = defense.options.get("lr")
    if selector.tuned or "lr" in selector.options or rate is None or defense.mark.on != "classifier":
        return selector
    return selector.fixed(lr=Tune(tuple(float(f"{rate.default * step:.2g}") for step in LADDER)))


def clean(
    defense: Method,
    selector: Selector,
    suspect: nn.Module,
    images: ImageSet,
    *,
    seed: int,
    tell: Callable[[str], None],
) -> Cleaned:
    """Carry out a defence; of candidates the first that costs at most 5 points of validation ACC, else the best.

    Candidates are tried in their order, each on the same images with the same draws, until one is good enough. No
    trigger and no test image is looked at. One that diverges is not chosen.

    Args:
        defense: the method.
        selector: its options, of which some may be candidates: `lr=tune(0.1,0.03)`.
        suspect: the model.
        images: the defender's clean ones; with candidates, a fifth of them, 2,000 at most, validates.
        seed: of the defence, and of which images validate.
        tell: is called with a line of progress.

    Raises:
        BadInput: too few images to choose on.
        Diverged: every candidate did.
    """

    def made(options: dict[str, Any], images: ImageSet) -> nn.Module:
        return defense.made(options)(suspect, images, rng=rng("defense", seed))

    if not selector.tuned:
        options = defense.check(selector.options)
        tell(f"{selector.text} on {len(images)} clean images of {images.name}")
        return Cleaned(made(options, images), len(images), options, {})
    rows = [dict(zip(selector.tuned, row, strict=True)) for row in itertools.product(*selector.tuned.values())]
    checked = [defense.check({**selector.options, **row}) for row in rows]  # all of them, before any work
    if len(images) < FEWEST:
        raise BadInput(
            f"{len(images)} clean images are too few to choose an option on. Give more, or name the value: "
            f"{selector.fixed(**rows[-1]).text}."
        )
    share = min(SHARE, MOST / len(images))
    parts = split(images, {"validation": share, "clean": 1 - share}, rng("validation", seed))
    validation, rest = parts["validation"], parts["clean"]
    tell(f"{selector.name} on {len(rest)} clean images of {images.name}, {len(validation)} more for validation")

    before, tried = accuracy(suspect, validation), list[float | None]()
    best: tuple[float, int, nn.Module] | None = None
    failed: Diverged | None = None
    for i, options in enumerate(checked):
        try:
            model = made(options, rest)
        except Diverged as error:
            failed = error
            tried.append(None)
            continue
        acc = accuracy(model, validation)
        tried.append(acc)
        if best is None or acc > best[0] or acc >= before - WITHIN:
            best = acc, i, model
        if acc >= before - WITHIN:
            break
    if best is None:
        raise Diverged(f"{selector.text}: {failed}")
    acc, at, model = best
    facts = {
        "chosen": rows[at],
        "candidates": rows,
        "validation": {"n": len(validation), "before": before, "after": tried},
    }
    names = "; ".join(f"{k} {rows[at][k]} of {', '.join(map(str, v))}" for k, v in selector.tuned.items())
    text = f"{names}: ACC on {len(validation)} validation images {100 * acc:.1f} of {100 * before:.1f}"
    if acc < before - WITHIN:
        text += "; every one of them costs more than 5 points"
    return Cleaned(model, len(rest), checked[at], facts, text)
