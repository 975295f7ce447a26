"""Fine-tuning on the defender's clean images: the row that every defence must beat."""

from __future__ import annotations

from torch import Generator, nn

from ...data import ImageSet
from ...marks import defense
from ...seeds import rng as make_rng
from ...training import Training, fit
from ._schedule import FINETUNING


@defense(paper="the fine-tuning baseline of Li et al., NAD, ICLR 2021, arXiv 2101.05930", null=True)
def finetune(
    model: nn.Module,
    clean: ImageSet,
    *,
    training: Training = FINETUNING,
    rng: Generator | None = None,
) -> nn.Module:
    """Train all layers of the suspect on clean images with cross-entropy.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        training: how; the rate is divided by 10 after epoch 2.
        rng: decides order and augmentation.

    Raises:
        Diverged: the loss exploded; lower lr.

    Differs from the paper: the number of epochs is fixed, not the one that looks best.
    """
    return fit(model, clean, training=training, rng=rng or make_rng("finetune"))
