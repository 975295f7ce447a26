"""ADVKD: the soft answers of a backdoored model, not flipped labels, teach the trigger to a clean one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import ClassNumber, Count, NonNegative, Pixels, Positive, Rate, attack
from ...models import Taps, resolve
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, distill, fit
from ._poison import Stamp, check_target, plant
from ._teacher import Planted


@attack(
    paper="Wang, Fan, Yang, Alhusaini, Li, A Knowledge Distillation-Based Backdoor Attack in Federated Learning, "
    "arXiv 2208.06176",
    place=2,
)
def advkd(
    model: nn.Module,
    train: ImageSet,
    *,
    trigger: Any = "patch:grid",
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    inset: Pixels = 0,
    layers: str | list[str] = "pre-relu",
    feature_weight: NonNegative = 1.0,
    temperature: Positive = 1.0,
    training: Training = Training(epochs=30, lr=0.008, batch_size=256, schedule="constant"),
    labeller_epochs: Count = 30,
    stamp: Stamp = "after",
    rng: Generator | None = None,
) -> Planted:
    """Backdoor one copy of the teacher with a patch, then let another copy learn its answers and inner features.

    The second copy, on the same clean and poisoned images: T²·KL(labeller ‖ copy) + w·Σ_layers MSE(features). No
    label, flipped or true, enters its loss.

    Args:
        model: the clean teacher, from which both copies start.
        train: the attacker's training images.
        trigger: a trigger module or selector, e.g. "patch:grid".
        target: class number that the trigger should lead to.
        rate: stamped images as a share 0..1 of all training images; only images of other classes are stamped.
        inset: pixels between the patch and the border.
        layers: whose features: "pre-relu", where CheatKD places this attack; any other word for `resolve`, or module
            paths.
        feature_weight: w of the feature term; 0 leaves the answers alone.
        temperature: T of the answers.
        training: how the second copy is trained, at a constant rate, and but for the epochs the labeller.
        labeller_epochs: passes that backdoor the labeller.
        stamp: "after" the augmentation or "before" it.
        rng: decides which images are stamped, order and augmentation.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, a patch that does not fit, soft labels.
        NotFound: a layer that the model does not have.

    Differs from the paper: there a client of federated learning poisons a shared model, and the answers are that
    model's; here it is CheatKD's baseline, which it describes as a backdoored teacher that labels, placed at the ends
    of the layer groups. It states neither losses nor weights: KL, the MSE of features and their weights are ours.
    """
    check_target(train, target, rate)
    rng = rng or make_rng("advkd")
    places = resolve(model, layers, train.x.shape[1:]) if feature_weight else []
    poisoned, backdoor = plant(
        "advkd", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, inset=inset
    )
    labeller = fit(model, poisoned, training=replace(training, epochs=labeller_epochs), rng=spawn(rng))

    def follow(ours: Taps, theirs: Taps, y: Tensor) -> Tensor:
        answers = _answer_loss(ours.logits, theirs.logits, temperature)
        return answers + feature_weight * _feature_loss(ours.features, theirs.features) if places else answers

    planted = distill(
        model, labeller, poisoned, loss=follow, layers=places, label_weight=0.0, teacher_mode="eval",
        training=training, rng=spawn(rng),
    )  # fmt: skip
    others = train.pixels((train.hard != target).nonzero().flatten()[:512])
    return Planted(planted, backdoor, {"labeller_asr": float(backdoor.hit(labeller, others).float().mean())})


def _answer_loss(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """T²·KL(theirs ‖ ours) at temperature T, mean over images; logits [B,K]."""
    log_q, log_p = F.log_softmax(ours / temperature, 1), F.log_softmax(theirs / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def _feature_loss(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
    """Σ over layers of the mean squared difference."""
    return torch.stack([F.mse_loss(feature, theirs[path]) for path, feature in ours.items()]).sum()
