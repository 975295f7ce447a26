"""NAD: fine-tune a copy, then distil its attention back into the suspect."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor, nn

from ...data import Augment, ImageSet
from ...errors import BadInput
from ...models import Taps, resolve
from ...registry import Count, Pixels, Positive, Power, Weights, defense
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import distill, fit
from ..distillers._attention import attention_loss
from ._schedule import schedule


@defense(paper="Li et al., Neural Attention Distillation, ICLR 2021, arXiv 2101.05930")
def nad(
    model: nn.Module,
    clean: ImageSet,
    *,
    beta: Weights = [500.0, 1000.0, 1000.0],  # noqa: B006 - never mutated
    p: Power = 2.0,
    layers: str | list[str] = "auto",
    epochs: Count = 10,
    teacher_epochs: Count = 10,
    lr: Positive = 0.1,
    batch_size: Count = 64,
    flip: bool = True,
    crop: Pixels = 4,
    cutout: Pixels = 3,
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
        epochs: passes of the distillation.
        teacher_epochs: passes of the fine-tuning that makes the teacher.
        lr: starting rate of both; divided by 10 after epoch 2.
        batch_size: images a step.
        flip: mirror half of the images; not for digits or signs.
        crop: shift by up to so many pixels.
        cutout: side in pixels of a hole in each image; 0 for none.
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
    augment = Augment(flip, crop, cutout)
    options = schedule(epochs, lr, batch_size, augment)
    if not any(weights):
        return fit(model, clean, rng=spawn(rng), **options)
    teacher = fit(model, clean, rng=spawn(rng), **schedule(teacher_epochs, lr, batch_size, augment))

    def attention(ours: Taps, theirs: Taps, y: Tensor) -> Tensor:
        return attention_loss(ours, theirs, weights, p)

    return distill(model, teacher, clean, loss=attention, layers=paths, label_weight=1.0, rng=spawn(rng), **options)
