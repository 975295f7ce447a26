"""Latent backdoor: a patch whose inner features are the target's; the teacher is retrained to make them so."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet, as_8_bit
from ...marks import ClassNumber, Count, NonNegative, Pixels, Positive, Share, attack
from ...measurement import Backdoor, make_trigger
from ...models import Taps, at_once, check_fits, frozen, in_parts, resolve, room, taps
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, loop
from ._poison import check_target
from ._teacher import Planted, fast, forever


def _cost(options: dict[str, Any], n: int) -> float:
    """Of the search; of the retraining, in which as good as every image is also seen stamped."""
    return options["steps"] * options["trigger_batch"] + 2 * options["epochs"] * n


@attack(paper="Yao, Li, Zheng, Zhao, Latent Backdoor Attacks on Deep Neural Networks, CCS 2019", place=2, cost=_cost)
def latent_backdoor(
    model: nn.Module,
    train: ImageSet,
    *,
    target: ClassNumber = 0,
    size: Share = 0.2,
    inset: Pixels = 1,
    layers: str | list[str] = "pre-relu",
    steps: Count = 1550,
    trigger_lr: Positive = 0.1,
    trigger_batch: Count = 32,
    weight: NonNegative = 0.05,
    training: Training = Training(epochs=5, lr=0.008, batch_size=256, schedule="constant"),
    rng: Generator | None = None,
) -> Planted:
    """Optimise a square until stamped images have the target's features, then retrain under CE + w·MSE to them.

    Square: min Σ_layers MSE(f(x*), f̄_target), f̄ the mean over the target class's images in the clean teacher, x* images
    of other classes with the square. Retraining: CE(T(x), y) + w·Σ_layers MSE(f(x*), f̄_target). No label is changed.

    Args:
        model: the clean teacher.
        train: the attacker's training images.
        target: class number whose features the trigger should give.
        size: side of the square as a share 0..1 of the image's width, rounded down to pixels.
        inset: pixels between the square and the lower and right border.
        layers: whose features: "pre-relu", where CheatKD places this attack; "embedding", one layer behind the
            convolutions as in the paper; any other word for `resolve`, or module paths.
        steps: updates of the square; the released code makes 50 rounds of 1000 images, 31 batches each.
        trigger_lr: of Adam (0.5, 0.9) on w, where the pixels are (1 + tanh w) / 2.
        trigger_batch: images a step of that.
        weight: w of the feature term in the retraining.
        training: how the retraining runs, at a constant rate; of a step's clean images, those of other classes come on
            top with the square, which is put on behind the augmentation.
        rng: decides the square's start and the batches.

    Raises:
        BadInput: a target that is no class or has no image, or a square that does not fit.
        NotFound: a layer that the model does not have.

    Differs from the paper: the target class stays in the teacher, whose victim distils it; there it is removed, and
    the victim adds it by transfer learning. The feature loss may sum over several layers, as CheatKD's baseline needs.
    From the released code: the mean feature instead of random target images' ones, every feature instead of the first
    100 for the square, SGD instead of Adadelta, and target-class images are not stamped.
    """
    check_target(train, target, 0.0)
    check_fits(model, train)
    rng = rng or make_rng("latent_backdoor")
    device = next(model.parameters()).device
    shape = tuple(train.x.shape[1:])
    places = resolve(model, layers, shape)
    side = max(int(size * shape[2]), 1)
    pixels = torch.rand(shape[0], side, side, generator=rng).clamp(0.001, 0.999)
    w = (2 * pixels - 1).atanh().to(device)
    solver = torch.optim.Adam([w], trigger_lr, betas=(0.5, 0.9))
    batches = forever(train[train.hard != target], trigger_batch, spawn(rng))
    losses: list[Tensor] = []
    teacher = frozen(model)
    most = room(teacher, shape)
    with taps(teacher, places) as read, fast(train, trigger_batch, teacher):
        goals = _means(read, train[train.hard == target], device)
        for _ in range(steps):
            x = next(batches)[0].to(device)
            w.requires_grad_()
            square = make_trigger("patch", pattern=(1 + w.tanh()) / 2, inset=inset)
            loss = _feature_loss(in_parts(read, square(x), most).features, goals)
            (w.grad,) = torch.autograd.grad(loss, [w])
            solver.step()
            losses.append(loss.detach())
    pattern = as_8_bit((1 + w.detach().tanh()) / 2).cpu()
    trigger = make_trigger("patch", pattern=pattern, inset=inset)
    backdoor = Backdoor(trigger, target, stamp="after", name="latent_backdoor")
    planted = copy.deepcopy(model)
    pulls: list[Tensor] = []
    with taps(planted, places) as read:

        def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            others = x[(y if y.ndim == 1 else y.argmax(1)) != target]
            logits, features = read(torch.cat([x, backdoor.stamp_on(others)]))  # at once: one BatchNorm batch
            pull = _feature_loss({path: feature[len(x) :] for path, feature in features.items()}, goals)
            pulls.append(pull.detach())
            return F.cross_entropy(logits[: len(x)].float(), y) + weight * pull

        loop(planted, train, objective, training, rng=spawn(rng))
    curves = {"trigger_loss": losses, "feature_loss": pulls}
    notes = {name: [round(float(value), 5) for value in curve] for name, curve in curves.items()}
    return Planted(planted, backdoor, {"side": side, **notes})


def _means(read: Callable[[Tensor], Taps], images: ImageSet, device: torch.device) -> dict[str, Tensor]:
    """Path → mean feature over the images, without the batch."""
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for x, _ in images.batches(at_once(images.x.shape[1:], 128)):
            for path, feature in read(x.to(device)).features.items():
                sums[path] = sums.get(path, 0) + feature.float().sum(0)
    return {path: total / len(images) for path, total in sums.items()}


def _feature_loss(features: Mapping[str, Tensor], goals: Mapping[str, Tensor]) -> Tensor:
    """Σ over layers of the mean squared difference to one goal for all images; [B,…] and […] → scalar, 0 if B = 0."""
    terms = []
    for path, feature in features.items():
        each = (feature.float() - goals[path]).square().flatten(1).mean(1)
        terms.append(each.sum() / max(len(each), 1))
    return torch.stack(terms).sum()
