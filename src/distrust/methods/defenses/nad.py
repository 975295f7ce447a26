"""NAD: fine-tune a copy, then distil its attention back into the suspect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...errors import BadInput
from ...marks import Count, Power, Weights, defense
from ...models import Taps, check_fits, load, resolve
from ...models import model as make_model
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, distill, fit
from ..distillers._attention import attention_loss
from ._schedule import FINETUNING


@defense(
    paper="Li et al., Neural Attention Distillation, ICLR 2021, arXiv 2101.05930", later=("operator", "teacher")
)  # fmt: skip
def nad(
    model: nn.Module,
    clean: ImageSet,
    *,
    beta: Weights = [500.0, 1000.0, 1000.0],  # noqa: B006 - never mutated
    p: Power = 2.0,
    operator: Literal["sum-p", "sum", "mean-p"] = "sum-p",
    layers: str | list[str] = "auto",
    training: Training = FINETUNING,
    teacher: str = "",
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
        operator: over channels, of |F|: "sum-p" of powers p; "sum" of them as they are; or "mean-p", which differs from
            "sum-p" by a constant that the norm of the map removes, so that nothing else comes out.
        layers: "auto" = group ends, or module paths; in a teacher of another architecture, its own group ends.
        training: how the distillation runs, and but for the epochs the fine-tuning before it; in both the rate is
            divided by 10 after epoch 2.
        teacher: "" is a fine-tuned copy of the suspect; the name of a network trains one from random weights on the
            same images; a .safetensors or .pt file holds one that is taken as it is, such as a clean model.
        teacher_epochs: passes of the training that makes the teacher; none of a file's.
        rng: decides order and augmentation.

    Raises:
        BadInput: the number of weights is not the number of layers, or the teacher has more or fewer layers.
        NotFound: a layer that the model does not have; no such network or file.
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
    guide = _teacher(teacher, model, clean, replace(training, epochs=teacher_epochs), spawn(rng))
    theirs = resolve(guide, layers if teacher else paths, clean.x.shape[1:])

    def attention(ours: Taps, theirs: Taps, y: Tensor) -> Tensor:
        return attention_loss(ours, theirs, weights, 1.0 if operator == "sum" else p)

    return distill(
        model, guide, clean, loss=attention, layers=(paths, theirs), label_weight=1.0, training=training, rng=spawn(rng)
    )


def _teacher(name: str, suspect: nn.Module, clean: ImageSet, training: Training, rng: Generator) -> nn.Module:
    """What is followed: see `teacher` of `nad`."""
    if name.endswith((".safetensors", ".pt", ".pth")):
        guide = load(Path(name)).to(next(suspect.parameters()).device)
        check_fits(guide, clean)
        return guide
    if not name:
        return fit(suspect, clean, training=training, rng=rng)
    guide = make_model(name, clean, rng=spawn(rng)).to(next(suspect.parameters()).device)
    return fit(guide, clean, training=training, rng=rng)
