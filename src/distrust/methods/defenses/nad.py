"""NAD: fine-tune a copy, then distil its attention back into the suspect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...errors import BadInput
from ...marks import Count, Power, Weights, defense
from ...models import Taps, resolve
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, distill, fit
from ..distillers._attention import attention_loss
from ._schedule import FINETUNING


@defense(paper="Li et al., Neural Attention Distillation, ICLR 2021, arXiv 2101.05930")
def nad(
    model: nn.Module,
    clean: ImageSet,
    *,
    beta: Weights = [500.0, 1000.0, 1000.0],  # noqa: B006 - never mutated
    p: Power = 2.0,
    layers: str | list[str] = "auto",
    training: Training = FINETUNING,
    teacher_epochs: Count = 10,
    rng: Generator | None = None,
) -> nn.Module:
    """Fine-tune the suspect to get a teacher, then train the suspect on CE + Σ β_l · attention loss.

    Args:
        model: the suspect; it becomes the student.
        clean: the defender's labelled images.
        beta: weight ≥ 0 of each tapped layer, or one for all. 0 leaves the cross-entropy alone, which is
            fine-tuning; no teacher is trained then.
        p: power of the absolute activations, ≥ 1.
        layers: "auto" = group ends, or module paths.
        training: how the distillation runs, and but for the epochs the fine-tuning before it; in both the rate is
            divided by 10 after epoch 2.
        teacher_epochs: passes of the fine-tuning that makes the teacher.
        rng: decides order and augmentation.

    Raises:
        BadInput: the number of weights is not the number of layers.
        NotFound: a layer that the model does not have.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: as in the released code, the loss is the mean of squared differences, hence the
    large β. From the released code: the last epoch is returned, not the one that looks best on test images.
    """
    rng = rng or make_rng("nad")
    paths = resolve(model, layers, clean.x.shape[1:])
    weights = list(beta) if isinstance(beta, Sequence) else [beta] * len(paths)
    if len(weights) != len(paths):
        raise BadInput(f"{len(weights)} weights in beta for {len(paths)} layers ({', '.join(paths)}); give one each.")
    if not any(weights):
        return fit(model, clean, training=training, rng=spawn(rng))
    teacher = fit(model, clean, training=replace(training, epochs=teacher_epochs), rng=spawn(rng))

    def attention(ours: Taps, theirs: Taps, y: Tensor) -> Tensor:
        return attention_loss(ours, theirs, weights, p)

    return distill(
        model, teacher, clean, loss=attention, layers=paths, label_weight=1.0, training=training, rng=spawn(rng)
    )
