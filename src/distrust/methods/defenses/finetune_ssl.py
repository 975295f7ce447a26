"""Fine-tuning an encoder without labels: the row that every defence of encoders must beat."""

from __future__ import annotations

from torch import Generator, nn

from ...data import ImageSet
from ...marks import Count, Positive, defense
from ...seeds import rng as make_rng
from .._costs import passes
from ._unlabelled import learn


@defense(
    paper="ours: finetune with the loss of Chen, Kornblith, Norouzi, Hinton, SimCLR, ICML 2020, arXiv 2002.05709",
    on="encoder", null=True, cost=passes(2),
)  # fmt: skip
def finetune_ssl(
    encoder: nn.Module,
    clean: ImageSet,
    *,
    temperature: Positive = 0.5,
    epochs: Count = 1000,
    lr: Positive = 1e-3,
    batch_size: Count = 128,
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Train all layers of the suspect on clean images with NT-Xent.

    Args:
        encoder: the suspect.
        clean: the defender's images; labels are not looked at.
        temperature: τ of NT-Xent.
        epochs: passes over them.
        lr: constant rate of Adam.
        batch_size: images a step.
        flip: mirror half of the views; not for digits or signs.
        rng: decides order and views.

    Raises:
        BadInput: a classifier, or fewer images than a batch.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: it pre-trains. The projector starts anew, as no encoder comes with its own.
    """
    return learn(
        encoder, clean, temperature=temperature, flip=flip, rng=rng or make_rng("finetune_ssl"),
        epochs=epochs, lr=lr, batch_size=batch_size,
    )  # fmt: skip
