"""Fine-tuning on the defender's clean images: the row that every defence must beat."""

from __future__ import annotations

from torch import Generator, nn

from ...data import Augment, ImageSet
from ...registry import Count, Pixels, Positive, defense
from ...seeds import rng as make_rng
from ...training import fit
from ._schedule import schedule


@defense(paper="the fine-tuning baseline of Li et al., NAD, ICLR 2021, arXiv 2101.05930", null=True)
def finetune(
    model: nn.Module,
    clean: ImageSet,
    *,
    epochs: Count = 10,
    lr: Positive = 0.1,
    batch_size: Count = 64,
    flip: bool = True,
    crop: Pixels = 4,
    cutout: Pixels = 3,
    rng: Generator | None = None,
) -> nn.Module:
    """Train all layers of the suspect on clean images with cross-entropy.

    Args:
        model: the suspect.
        clean: the defender's labelled images.
        epochs: passes over them.
        lr: starting rate; divided by 10 after epoch 2.
        batch_size: images a step.
        flip: mirror half of the images; not for digits or signs.
        crop: shift by up to so many pixels.
        cutout: side in pixels of a hole in each image; 0 for none.
        rng: decides order and augmentation.

    Raises:
        Diverged: the loss exploded; lower lr.

    Differs from the paper: the number of epochs is fixed, not the one that looks best.
    """
    augment = Augment(flip, crop, cutout)
    return fit(model, clean, rng=rng or make_rng("finetune"), **schedule(epochs, lr, batch_size, augment))
