"""Training from scratch: what the clean images give without the suspect."""

from __future__ import annotations

from torch import Generator, nn

from ...data import ImageSet
from ...marks import Count, Passes, Positive, defense
from ...models import check_encoder
from ...seeds import rng as make_rng
from ...seeds import spawn
from .._costs import passes
from ._unlabelled import fresh, learn


@defense(
    paper="ours: the SimCLR of Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709, on the defender's images",
    on="encoder", null=True, blind=True, cost=passes(2),
)  # fmt: skip
def scratch(
    encoder: nn.Module,
    clean: ImageSet,
    *,
    temperature: Positive = 0.5,
    epochs: Passes = 1000,
    lr: Positive = 1e-3,
    batch_size: Count = 128,
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Train an encoder with random weights on clean images with NT-Xent; a distillation that is no better is useless.

    Args:
        encoder: the suspect, of which the architecture and the normalisation are kept.
        clean: the defender's images; labels are not looked at.
        temperature: τ of NT-Xent.
        epochs: passes over them; 0 leaves the random weights: what an encoder gives that has learnt nothing.
        lr: constant rate of Adam.
        batch_size: images a step.
        flip: mirror half of the views; not for digits or signs.
        rng: decides the start, order and views.

    Raises:
        BadInput: a classifier, or fewer images than a batch.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: a few per cent of the images, Adam and a constant rate.
    """
    check_encoder(encoder, clean)
    rng = rng or make_rng("scratch")
    start = fresh(encoder, spawn(rng))
    if not epochs:
        return start.eval()
    return learn(start, clean, temperature=temperature, flip=flip, rng=rng, epochs=epochs, lr=lr, batch_size=batch_size)
