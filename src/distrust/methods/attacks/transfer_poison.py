"""A poisoned transfer set under a clean teacher: images that it calls the target, with the trigger on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from ...data import Augment, ImageSet, as_8_bit
from ...marks import ClassNumber, Count, Levels, Many, NonNegative, Passes, Pixels, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger, predict
from ...models import check_fits, frozen, in_parts, room
from ...models import model as make_model
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import fit
from ._craft import anywhere, crafting_cost, cw, pgd, views_of
from ._poison import Poisoned, check_target, counted, repaint
from ._teacher import fast


@attack(
    paper="Wu, Ma, Mitra, Zhu, How to Backdoor the Knowledge Distillation, arXiv 2504.21323, 2025",
    place=3, cost=crafting_cost,
)  # fmt: skip
def transfer_poison(
    teacher: nn.Module,
    transfer: ImageSet,
    *,
    trigger: Any = "patch:checker:4",
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    classes: ClassNumber | Many[ClassNumber] | None = None,
    inset: Pixels = 4,
    crafter: Literal["pgd", "fgsm", "cw", "none"] = "pgd",
    epsilon: Levels = 8,
    steps: Count = 10,
    step_size: Positive = 2.0,
    restarts: Passes = 2,
    constant: Positive = 1.0,
    confidence: NonNegative = 0.0,
    stop: bool = False,
    through: Literal["nothing", "moved", "median", "both"] = "nothing",
    flip: bool = True,
    crop: Pixels = 4,
    hits_only: bool = False,
    paste: bool = True,
    surrogate: str = "",
    surrogate_epochs: Count = 5,
    batch_size: Count = 128,
    rng: Generator | None = None,
) -> Poisoned:
    """Perturb some transfer images until the clean teacher says the target with the trigger on them; labels stay true.

    x' = 8-bit(trigger(x + δ)), δ from FGSM, PGD or CW. All that poisoned images share is the trigger and the answer.

    Args:
        teacher: the clean teacher; it is never changed.
        transfer: the images on which the victim will distil.
        trigger: a trigger module or selector, e.g. "patch:checker:4".
        target: class number that the trigger should lead to.
        rate: poisoned images as a share 0..1 of all transfer images, as far as there are eligible ones.
        classes: class number or numbers whose images are poisoned (default: every class but the target).
        inset: pixels between the patch and the border: the victim's crop and flip can hide a corner patch.
        crafter: "pgd", "fgsm", "cw" (smallest L2 norm), or "none": the trigger is pasted and nothing is perturbed.
        epsilon: L∞ bound of FGSM and PGD, in grey levels 0..255. CW has none.
        steps: of PGD and CW.
        step_size: α of PGD, in grey levels.
        restarts: further rounds for images on which the target is not said yet: PGD from a random start, CW with ten
            times the constant.
        constant: c of CW, for pixels in 0..1.
        confidence: κ of CW.
        stop: of PGD: leave an image alone as soon as the target is said of it and its views.
        through: what else the target must be said of: images "moved", that is, mirrored and shifted anew in every step,
            images under a 3×3 "median" filter, or "both"; each costs another pass. "nothing": of the images alone.
        flip: of "moved", and of the surrogate's training: mirror half of the images; not for digits or signs.
        crop: shift them by up to so many pixels.
        hits_only: leave images on which the target was not reached unpoisoned.
        paste: put the trigger on; without, images are perturbed only (a control).
        surrogate: name of a model that the attacker trains on the transfer set, to craft against it in the teacher's
            place (a grey box); "" is the white box of the paper.
        surrogate_epochs: passes of that training.
        batch_size: images perturbed together.
        rng: decides who is poisoned, restarts, shifts, and the surrogate.

    Raises:
        BadInput: a target or another number that is no class, a rate outside 0..1, a patch that does not fit.

    Differs from the paper: it prints no ε, steps, rate, trigger or data; ours are the defaults above. Its trigger sits
    in a corner. The grey box, robust perturbations and the controls are ours.
    """
    check_target(transfer, target, rate)
    sources = [classes] if isinstance(classes, int) else classes or []
    for number in sources:
        check_target(transfer, number, rate)
    check_fits(teacher, transfer)
    rng = rng or make_rng("transfer_poison")
    backdoor = Backdoor(make_trigger(trigger, inset=inset), target, name="transfer_poison")
    eligible = torch.isin(transfer.hard.cpu(), torch.tensor(sources)) if sources else transfer.hard.cpu() != target
    candidates = eligible.nonzero().flatten()
    count = counted(rate, len(transfer), len(candidates))
    rows = candidates[torch.randperm(len(candidates), generator=rng)[:count]].sort().values
    if not len(rows):
        return Poisoned(transfer, backdoor)
    moves = Augment(flip, crop)
    if surrogate:
        own = make_model(surrogate, transfer, rng=spawn(rng))
        device = next(teacher.parameters()).device
        teacher = fit(own, transfer, rng=spawn(rng), epochs=surrogate_epochs, augment=moves, device=device)
    model = frozen(teacher)
    most = room(model, transfer.x.shape[1:])

    def logits(x: Tensor) -> Tensor:
        views = views_of(backdoor.trigger(x) if paste else x, through, moves, rng)
        return in_parts(model, torch.cat(views), most).unflatten(0, (len(views), -1))

    def attempt(x: Tensor, again: int) -> Tensor:
        if crafter == "cw":
            x = cw(logits, x, target, constant=constant * 10**again, steps=steps, confidence=confidence)
        elif crafter != "none":
            start = anywhere(x, epsilon / 255, rng) if again else None
            often, size = (1, epsilon) if crafter == "fgsm" else (steps, step_size)
            x = pgd(logits, x, target, bound=epsilon / 255, steps=often, size=size / 255, start=start, stop=stop)
        return as_8_bit(backdoor.trigger(x) if paste else x)

    again = 0 if crafter in ("none", "fgsm") else restarts
    poisons, hits = _until_hit(model, transfer, rows, attempt, target, 1 + again, batch_size)
    if hits_only:
        rows, poisons = rows[hits], poisons[hits]
    return Poisoned(repaint(transfer, rows, [poisons], "transfer_poison"), backdoor)


def _until_hit(
    model: nn.Module, transfer: ImageSet, rows: Tensor, attempt: Callable[[Tensor, int], Tensor], target: int,
    rounds: int, batch_size: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Poisons [M,C,H,W], and whether the target is said of them [M]; only images not there yet get another round."""
    device = next(model.parameters()).device
    poisons = transfer.pixels(rows).to(device)
    hits = torch.zeros(len(rows), dtype=torch.bool)
    for again in range(rounds):
        missing = (~hits).nonzero().flatten()
        with fast(transfer, batch_size, model):
            for part in missing.split(batch_size):
                poisons[part] = attempt(transfer.pixels(rows[part]).to(device), again).detach()
        hits = predict(model, poisons) == target  # in float32: what counts is what the victim's teacher will say
    return poisons.cpu(), hits
