"""RNP: let the network forget the clean images, and prune the channels that recovering them does not need."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, Part, Positive, Rate, defense
from ...models import check_fits
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from ...training.loop import steps
from ._masks import Masked, batch_norms, learn_masks, prune

MASKS = Training(epochs=20, lr=0.2, batch_size=128, nesterov=False, weight_decay=0.0, schedule="constant")


@defense(
    paper="Li, Lyu, Ma, Koren, Lyu, Li, Jiang, Reconstructive Neuron Pruning for Backdoor Defense, ICML 2023, "
    "arXiv 2305.14876"
)
def rnp(
    model: nn.Module,
    clean: ImageSet,
    *,
    threshold: Part = 0.3,
    forget: Rate = 0.2,
    alpha: Positive = 0.2,
    unlearn_epochs: Count = 20,
    unlearn_lr: Positive = 0.01,
    training: Training = MASKS,
    rng: Generator | None = None,
) -> nn.Module:
    """Climb the CE of a copy until it is right on few images; learn masks that lower it; prune by them in the suspect.

    Masks m scale BatchNorm's γ and minimise α · CE of the copy that forgot. Where m is small, a channel of the suspect
    gets the scale 0.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        threshold: a channel whose mask is no higher is pruned, 0..1; let a study tune it, high values first.
        forget: the climb ends after an epoch with no more than this share of right answers.
        alpha: weight > 0 of the loss that masks lower.
        unlearn_epochs: of the climb, at most.
        unlearn_lr: its rate; it has weight decay 5e-4, and a tenth of this rate after 10 epochs.
        training: how masks are learnt, and but for epochs, rate and schedule the climb before it.
        rng: decides order and augmentation.

    Raises:
        Skip: no BatchNorm.
        Diverged: the climb went out of range; lower unlearn_lr.

    Differs from the released code: it tries thresholds from 0 to 0.9 on test images; 0.3 is the last in its own log
    whose clean accuracy stays within 1 point. Its clipping comes before there are gradients, and is left out.
    """
    check_fits(model, clean)
    batch_norms(model, "rnp")
    rng = rng or make_rng("rnp")
    lost, right = copy.deepcopy(model), list[Tensor]()

    def climb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x).float()
        right.append((logits.argmax(1) == (y if y.ndim == 1 else y.argmax(1))).float().mean())
        return -F.cross_entropy(logits, y)

    how = replace(
        training, epochs=unlearn_epochs, lr=unlearn_lr, weight_decay=5e-4, schedule="step", milestones=(10,), gamma=0.1
    )  # fmt: skip
    epoch = max(len(clean) // training.batch_size, 1)
    for done, _ in enumerate(steps(lost, clean, climb, how, rng=spawn(rng))):
        if done and done % epoch == 0 and sum(right[-epoch:]) / epoch <= forget:
            break

    def recover(masked: Masked, x: Tensor, y: Tensor) -> Tensor:
        return alpha * F.cross_entropy(masked(x, None), y)

    masks = learn_masks(lost, clean, recover, method="rnp", training=training, rng=spawn(rng))
    return prune(model, masks, threshold)
