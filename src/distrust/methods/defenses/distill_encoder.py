"""Plain distillation of an encoder: a student with random weights follows the suspect's features on clean images."""

from __future__ import annotations

from typing import Literal

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import NonNegative, defense
from ...models import Taps, resolve
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from .._costs import LOOK, passes
from ..distillers._attention import attention_loss
from ._unlabelled import UNLABELLED, fresh, learn


@defense(
    paper="Han et al., On the Effectiveness of Distillation in Mitigating Backdoors in Pre-trained Encoder, 2024, "
    "arXiv 2403.03846",
    on="encoder", cost=passes(1 + LOOK),
)  # fmt: skip
def distill_encoder(
    encoder: nn.Module,
    clean: ImageSet,
    *,
    metric: Literal["cosine", "l2"] = "cosine",
    attention: NonNegative = 0.0,
    layers: str | list[str] = "auto",
    training: Training = UNLABELLED,
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Minimise the distance between the student's and the suspect's features of one view, + attention · Σ_l AT_l.

    Args:
        encoder: the suspect.
        clean: the defender's images; labels are not looked at.
        metric: "cosine" for −mean cos, or "l2" for the mean squared difference.
        attention: weight of the attention loss of NAD and MIMIC (there 1000 and more); 0 leaves it out.
        layers: "auto" = group ends, or module paths.
        training: how; by Adam at a constant rate. Views take the place of its augmentation.
        flip: mirror half of the views; not for digits or signs.
        rng: decides the student's start, order and views.

    Raises:
        BadInput: a classifier, or fewer images than a batch.
        NotFound: a layer that the encoder does not have.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: it compares four teachers, three students and six losses; this is the suspect as it is and
    an empty student, under a distance of features and, if asked, attention. Rate and epochs are ours.
    """
    rng = rng or make_rng("distill_encoder")
    paths = resolve(encoder, layers, clean.x.shape[1:]) if attention else []

    def match(ours: Taps, theirs: Taps) -> Tensor:
        if metric == "cosine":
            gap = -F.cosine_similarity(ours.logits, theirs.logits).mean()
        else:
            gap = F.mse_loss(ours.logits, theirs.logits)
        return gap + attention * attention_loss(ours, theirs)

    return learn(
        fresh(encoder, spawn(rng)), clean, encoder, match, paths, contrast=0.0, flip=flip, training=training, rng=rng
    )
