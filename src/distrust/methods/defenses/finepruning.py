"""Fine-pruning: remove the features that sleep on clean images, then fine-tune what is left."""

from __future__ import annotations

import copy

import torch
from torch import Generator, nn

from ...data import ImageSet
from ...marks import Part, defense
from ...measurement.embedding import embedding
from ...models import check_fits, last_linear
from ...seeds import rng as make_rng
from ...training import Training, cross_entropy, loop
from ._schedule import FINETUNING


@defense(paper="Liu, Dolan-Gavitt, Garg, Fine-Pruning, RAID 2018, arXiv 1805.12185")
def finepruning(
    model: nn.Module,
    clean: ImageSet,
    *,
    share: Part = 0.2,
    training: Training = FINETUNING,
    rng: Generator | None = None,
) -> nn.Module:
    """Cut the inputs of the last linear layer that are least active on average, then fine-tune with these cut.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        share: of the inputs, 0..1, rounded to a whole number, of which one is left; let a study tune it, high
            values first.
        training: how the fine-tuning runs, as `finetune`'s by default.
        rng: decides order and augmentation.

    Raises:
        BadInput: the model has no linear layer.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: the share is given, or tuned on validation images, in place of pruning one by one until the
    accuracy falls; what is cut is the input of the last layer, as in BackdoorBench, and not the output of the last
    convolution, which is the same thing in a network that averages the one to get the other.
    """
    check_fits(model, clean)
    tuned = copy.deepcopy(model)
    weight = last_linear(tuned, clean.x.shape[1:]).get_parameter("weight")
    activity = embedding(model, clean).mean(0)
    few = min(round(share * len(activity)), len(activity) - 1)
    asleep = activity.argsort(stable=True)[:few].to(weight.device)

    def cut() -> None:
        with torch.no_grad():
            weight[:, asleep] = 0

    cut()
    return loop(tuned, clean, cross_entropy, training, rng=rng or make_rng("finepruning"), after=cut)
