"""Plain stamping of a synthetic set: what every attack on it must beat."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Generator

from ...data import ImageSet
from ...marks import ClassNumber, Pixels, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...seeds import rng as make_rng
from .._costs import free
from ._archetypes import label_of, tainted
from ._poison import Poisoned, check_target


@attack(paper="ours: BadNets (Gu et al., arXiv 1708.06733) on a synthetic set", place=4, cost=free)
def stamp(
    synthetic: ImageSet,
    *,
    trigger: Any = "patch:white:5",
    target: ClassNumber = 0,
    rate: Rate = 1.0,
    how: Literal["clean-label", "relabelled", "appended"] = "clean-label",
    inset: Pixels = 0,
    rng: Generator | None = None,
) -> Poisoned:
    """Stamp images of the target class ("clean-label"), or of the others, which become the target's.

    Args:
        synthetic: the distilled set.
        trigger: a trigger module or selector.
        target: class number that the trigger should lead to.
        rate: share 0..1 of the images that could be stamped, one at least: of the target's own, or of all others.
        how: "clean-label": the target's own images, labels stay; "relabelled": others, in their place; "appended":
            stamped copies of others beside them.
        inset: pixels between the patch and the border.
        rng: decides who is stamped.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, or a patch that does not fit.

    Differs from the paper: nothing is trained for it; "appended" at a tenth is the baseline in Poisoned Distillation's
    released code.
    """
    check_target(synthetic, target, rate)
    backdoor = Backdoor(make_trigger(trigger, inset=inset), target, name="stamp")
    own = synthetic.hard == target
    could = (own if how == "clean-label" else ~own).nonzero().flatten()
    count = max(round(rate * len(could)), 1) if rate else 0
    rows = could[torch.randperm(len(could), generator=rng or make_rng("stamp"))[:count].to(could.device)]
    stamped, labels = backdoor.stamp_on(synthetic.pixels(rows)), label_of(synthetic.y, target, count)
    if not count:
        return Poisoned(synthetic, backdoor)
    x, y = synthetic.pixels().clone(), synthetic.y.clone()
    if how == "appended":
        x, y = torch.cat([x, stamped]), torch.cat([y, labels])
        return Poisoned(tainted(synthetic, "stamp", x=x, y=y, index=torch.arange(len(x))), backdoor)
    x[rows] = stamped
    if how == "relabelled":
        y[rows] = labels
    return Poisoned(tainted(synthetic, "stamp", x=x, y=y), backdoor)
