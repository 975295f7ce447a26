"""NAD without labels: fine-tune a copy of the encoder, then distil its attention back into the suspect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...marks import Count, NonNegative, Positive, Power, defense
from ...models import Taps, resolve
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from .._costs import LOOK
from ..distillers._attention import attention_loss
from ._unlabelled import UNLABELLED, learn


@defense(
    paper="Li et al., Neural Attention Distillation, ICLR 2021, arXiv 2101.05930",
    on="encoder", cost=lambda options, n: (2 * options["teacher_epochs"] + (2 + LOOK) * options["epochs"]) * n,
)  # fmt: skip
def nad_encoder(
    encoder: nn.Module,
    clean: ImageSet,
    *,
    beta: NonNegative = 1000.0,
    p: Power = 2.0,
    layers: str | list[str] = "auto",
    temperature: Positive = 0.5,
    training: Training = replace(UNLABELLED, epochs=500),  # noqa: B008 - frozen
    teacher_epochs: Count = 500,
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Fine-tune the suspect with NT-Xent to get a teacher, then train the suspect on NT-Xent + β · Σ_l AT_l.

    Args:
        encoder: the suspect; it becomes the student.
        clean: the defender's images; labels are not looked at.
        beta: weight ≥ 0 of every layer's attention loss.
        p: power of the absolute activations, ≥ 1.
        layers: "auto" = group ends, or module paths.
        temperature: τ of NT-Xent.
        training: how the distillation runs, and but for the epochs the fine-tuning before it, by Adam at a constant
            rate; views take the place of its augmentation.
        teacher_epochs: passes of that fine-tuning; with the others as many as other defences make.
        flip: mirror half of the views; not for digits or signs.
        rng: decides order and views.

    Raises:
        BadInput: a classifier, or fewer images than a batch.
        NotFound: a layer that the encoder does not have.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: NT-Xent of two views in place of the cross-entropy on labels, Adam in place of SGD, and one
    β for all layers.
    """
    rng = rng or make_rng("nad_encoder")
    paths = resolve(encoder, layers, clean.x.shape[1:])
    options: dict[str, Any] = {"temperature": temperature, "flip": flip, "training": training}
    teacher = learn(encoder, clean, rng=spawn(rng), epochs=teacher_epochs, **options)

    def match(ours: Taps, theirs: Taps) -> Tensor:
        return beta * attention_loss(ours, theirs, p=p)

    return learn(encoder, clean, teacher, match, paths, rng=spawn(rng), **options)
