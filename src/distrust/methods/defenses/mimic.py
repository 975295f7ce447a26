"""MIMIC: an empty student attends as the suspect does, most where the suspect's layers say most of its features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...errors import BadInput
from ...marks import Count, NonNegative, Positive, defense
from ...models import Taps, check_encoder, resolve
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from ...training.pretrain import check_batch
from .._costs import LOOK
from ..distillers._attention import attention_loss
from ._information import informed
from ._unlabelled import UNLABELLED, fresh, learn

BASE, GAIN = 1000.0, 10000.0  # of the released code


def _cost(options: dict[str, Any], n: int) -> float:
    """A pass of the estimate, small networks on a few layers' features, counts as one of the encoder."""
    views = 2 if options["contrast"] else 1
    asked = options["attention"] and options["estimate_on"] != "uniform"
    return ((views + LOOK) * options["epochs"] + bool(asked) * options["mine_epochs"]) * n


@defense(
    paper="Han et al., Mutual Information Guided Backdoor Mitigation for Pre-trained Encoders, IEEE TIFS 2025, "
    "arXiv 2406.03508",
    on="encoder", cost=_cost,
)  # fmt: skip
def mimic(
    encoder: nn.Module,
    clean: ImageSet,
    *,
    estimate_on: Literal["teacher", "student", "uniform"] = "teacher",
    mine_epochs: Count = 200,
    contrast: NonNegative = 1.0,
    attention: NonNegative = 1.0,
    clone: NonNegative = 1.0,
    temperature: Positive = 0.5,
    layers: str | list[str] = "auto",
    training: Training = replace(UNLABELLED, lr=1e-2),  # noqa: B008 - frozen
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Distil the suspect T into a student S with random weights, layers weighted by their mutual information I_l.

    contrast · NT-Xent(S(x₁), S(x₂)) + attention · Σ_l w_l · MSE(A_l(S), A_l(T)) − clone · mean cos(T(x₁), S(x₁)), with
    attention maps A_l of the first view and w_l = 1000 + 10000 · I_l / Σ I. I_l, between layer and features, is MINE's
    lower bound; where no layer has any, all weigh the same.

    Args:
        encoder: the suspect T.
        clean: the defender's images; labels are not looked at.
        estimate_on: whose layers I is estimated on: the teacher's, the random student's as in the released code, or
            "uniform" for equal weights.
        mine_epochs: passes of each layer's estimate; its last ten count.
        contrast: weight of NT-Xent; 0 leaves it out, and the second view.
        attention: weight of the attention term; 0 leaves it out, and the estimate.
        clone: weight of the cosine; 0 leaves it out.
        temperature: τ of NT-Xent.
        layers: "auto" = group ends, or module paths.
        training: how the distillation runs, by Adam at a constant rate; the released code's command has 1e-2, its
            default is 1e-3. Views take the place of its augmentation.
        flip: mirror half of the views; not for digits or signs.
        rng: decides the student's start, order and views, and the estimate.

    Raises:
        BadInput: a classifier, fewer images than a batch, or every weight 0.
        NotFound: a layer that the encoder does not have.
        Diverged: the loss exploded; lower lr.

    Differs from the released code: I is estimated on the teacher, where the paper looks for benign knowledge; there on
    the student before training, so that the weights know nothing of the teacher. The student sees both views as one
    batch, not the first one twice, and crops keep a fifth of the image or more, not 8 %. The bound is read off the
    steps, not in another pass.
    """
    check_encoder(encoder, clean)
    check_batch(clean, training.batch_size)
    if not (contrast or attention or clone):
        raise BadInput(
            "mimic: contrast, attention and clone are all 0, so there is nothing to learn. Give one of them."
        )
    rng = rng or make_rng("mimic")
    student, estimate = fresh(encoder, spawn(rng)), spawn(rng)
    paths = resolve(encoder, layers, clean.x.shape[1:]) if attention else []
    nats = [0.0] * len(paths)
    if estimate_on != "uniform":
        source = encoder if estimate_on == "teacher" else student
        nats = informed(source, paths, clean, epochs=mine_epochs, batch_size=training.batch_size, rng=estimate)
    weights = [attention * weight for weight in layer_weights(nats)]

    def match(ours: Taps, theirs: Taps) -> Tensor:
        alike = F.cosine_similarity(ours.logits, theirs.logits).mean()
        return attention_loss(ours, theirs, weights) - clone * alike

    return learn(
        student, clean, encoder, match, paths, contrast=contrast, temperature=temperature, flip=flip,
        training=training, rng=rng,
    )  # fmt: skip


def layer_weights(nats: list[float]) -> list[float]:
    """w_l of layers with so much information; equal shares if none has any."""
    total = sum(nats)
    return [BASE + GAIN * (each / total if total else 1 / len(nats)) for each in nats]
