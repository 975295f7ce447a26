"""Hidden trigger: target-class images, faintly changed, whose features are those of patched images of other classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet, as_8_bit
from ...marks import ClassNumber, Count, Levels, Pixels, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...models import Taps, frozen, in_parts, last_linear, resolve, room, taps
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, fit
from .._costs import CLASSES
from ._poison import check_target, counted, repaint
from ._teacher import Planted, fast, forever


@attack(
    paper="Saha, Subramanya, Pirsiavash, Hidden Trigger Backdoor Attacks, AAAI 2020, arXiv 1910.00033",
    place=2, clean_label=True,
    cost=lambda options, n: (options["epochs"] + options["rate"] * options["steps"] / CLASSES) * n,
)  # fmt: skip
def hidden_trigger(
    model: nn.Module,
    train: ImageSet,
    *,
    trigger: Any = "patch:checker:8",
    target: ClassNumber = 0,
    rate: Rate = 0.5,
    inset: Pixels = 0,
    bound: Levels = 16,
    layers: str | list[str] = "embedding",
    steps: Count = 100,
    step_size: Positive = 2.0,
    poison_batch: Count = 100,
    training: Training = Training(epochs=30, lr=0.008, batch_size=256, schedule="constant"),
    last_only: bool = False,
    rng: Generator | None = None,
) -> Planted:
    """Craft clean-label poisons that collide with patched images in feature space, then fine-tune the teacher on them.

    min over z of Σ_layers ‖f(z) − f(s*)‖² with ‖z − t‖_∞ ≤ bound; t target-class images, s* patched images of other
    classes, paired anew in every step: the nearest pair first, no image twice. The patch is never seen in training.

    Args:
        model: the clean teacher.
        train: the attacker's training images.
        trigger: a trigger module or selector, e.g. "patch:checker:8".
        target: class number that the trigger should lead to.
        rate: poisons as a share 0..1 of the **target class's** images, whose place they take with their true label.
        inset: pixels between the patch and the border.
        bound: L∞ bound ε of a poison's change, in grey levels 0..255.
        layers: whose features: "embedding" (fc7 in the paper), "pre-relu" (CheatKD's "position optimisation"), another
            word for `resolve`, or module paths.
        steps: updates of a poison.
        step_size: of an update, in grey levels; halved after every fifth of the steps.
        poison_batch: poisons crafted together, and paired among so many patched images.
        training: how the fine-tuning runs, at a constant rate.
        last_only: train the last linear layer alone, as the paper does.
        rng: decides who is poisoned, the patched images and the batches.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, a patch that does not fit.
        NotFound: a layer that the model does not have.

    Differs from the paper: sign steps, so that one size suits every network, not 5000 plain ones of 0.01; a fixed
    place for the patch; other classes all together; the whole teacher is fine-tuned unless `last_only`; a layer's
    distance is divided by its number of values. As in the released code, a batch's patched images are drawn once.
    """
    check_target(train, target, rate)
    rng = rng or make_rng("hidden_trigger")
    device = next(model.parameters()).device
    backdoor = Backdoor(make_trigger(trigger, inset=inset), target, name="hidden_trigger")
    own, others = (train.hard == target).nonzero().flatten(), train[train.hard != target]
    rows = own[torch.randperm(len(own), generator=rng)[: counted(rate, len(own), len(own))]]
    batches = forever(others, poison_batch, spawn(rng))
    found = train.pixels(rows)
    losses = []
    teacher = frozen(model)
    most = room(teacher, train.x.shape[1:])
    with taps(teacher, resolve(model, layers, train.x.shape[1:])) as read, fast(train, poison_batch, teacher):

        def look(x: Tensor) -> Taps:
            return in_parts(read, x, most)

        for part in torch.arange(len(rows)).split(min(poison_batch, len(others))):
            patched = backdoor.stamp_on(next(batches)[0][: len(part)].to(device))
            clean = train.pixels(rows[part]).to(device)
            poisons, loss = _craft(look, clean, patched, bound / 255, steps, step_size / 255)
            found[part] = as_8_bit(poisons).to(found)
            losses.append(loss)
    start = copy.deepcopy(model).requires_grad_(not last_only)
    if last_only:
        last_linear(start, train.x.shape[1:]).requires_grad_(True)
    poisoned = repaint(train, rows, [found], "hidden_trigger")
    planted = fit(start, poisoned, training=training, rng=spawn(rng)).requires_grad_(True)
    curve = [round(value, 6) for value in torch.stack(losses).mean(0).tolist()] if losses else []
    return Planted(planted, backdoor, {"poisons": len(rows), "loss": curve})


def _craft(
    read: Callable[[Tensor], Taps], clean: Tensor, patched: Tensor, bound: float, steps: int, size: float
) -> tuple[Tensor, Tensor]:
    """Poisons [B,C,H,W] within `bound` of `clean`, and the mean loss at each step [steps]."""
    with torch.no_grad():
        goals = {path: feature.float() for path, feature in read(patched).features.items()}
    poisons = clean.clone()
    curve = []
    for step in range(steps):
        features = read(poisons.requires_grad_()).features
        mates = _pair(_distances(goals, features))
        loss = _collision_loss(features, {path: goal[mates] for path, goal in goals.items()})
        (gradient,) = torch.autograd.grad(loss, [poisons])
        moved = poisons.detach() - size * 0.5 ** (5 * step // steps) * gradient.sign()
        poisons = torch.minimum(torch.maximum(moved, clean - bound), clean + bound).clamp(0, 1)
        curve.append(loss.detach() / len(clean))
    return poisons, torch.stack(curve).cpu()


def _collision_loss(features: Mapping[str, Tensor], goals: Mapping[str, Tensor]) -> Tensor:
    """Σ over images and layers of the squared distance to each image's goal, per value of the layer."""
    terms = [(f.float() - goals[path]).square().flatten(1).mean(1).sum() for path, f in features.items()]
    return torch.stack(terms).sum()


@torch.no_grad()
def _distances(goals: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
    """The same for every goal [S] with every image [B] → [S,B]."""
    flat = [(f.float().flatten(1), goals[path].flatten(1)) for path, f in features.items()]
    return torch.stack([torch.cdist(goal, f).square() / f.shape[1] for f, goal in flat]).sum(0)


def _pair(distances: Tensor) -> Tensor:
    """Greedy one-to-one pairing, the nearest first; distances [S,B], S ≥ B → the row of each column [B]."""
    left, rows = distances.cpu().clone(), torch.zeros(distances.shape[1], dtype=torch.int64)
    for _ in range(len(rows)):
        row, column = divmod(int(left.argmin()), left.shape[1])
        rows[column] = row
        left[row], left[:, column] = torch.inf, torch.inf
    return rows.to(distances.device)
