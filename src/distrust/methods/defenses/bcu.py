"""BCU: draw some of the suspect's weights anew, more of them in later layers, then follow the suspect."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Share, defense
from ...models import Taps
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from .._costs import LOOK, passes
from ._unlabelled import UNLABELLED, fresh, learn


@defense(
    paper="Pang, Sun, Ling, Chen, Backdoor Cleansing with Unlabeled Data, CVPR 2023, arXiv 2211.12044",
    on="encoder", cost=passes(1 + LOOK),
)  # fmt: skip
def bcu(
    encoder: nn.Module,
    clean: ImageSet,
    *,
    first: Share = 0.01,
    last: Share = 0.27,
    training: Training = UNLABELLED,
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Re-initialise a random share of every layer's weights, then maximise the mean cosine to the suspect's features.

    Args:
        encoder: the suspect.
        clean: the defender's images; labels are not looked at.
        first: share 0..1 of the first layer's weights; the share grows by one factor from layer to layer.
        last: of the last layer's.
        training: how; by Adam at a constant rate. Views take the place of its augmentation.
        flip: mirror half of the views; not for digits or signs.
        rng: decides which weights, what they become, order and views.

    Raises:
        BadInput: a classifier, or fewer images than a batch.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: an encoder has no logits whose softened probabilities could be followed, so its features
    are. From the released code: the share grows per layer, not in steps of 1, 1, 3, 9 and 27 % per group of ResNet-18;
    Adam in place of SGD. As there, BatchNorm is kept.
    """
    rng = rng or make_rng("bcu")
    student, random, draw = copy.deepcopy(encoder), fresh(encoder, spawn(rng)), spawn(rng)
    kinds = (nn.Conv2d, nn.Linear)
    layers = [pair for pair in zip(student.modules(), random.modules(), strict=True) if isinstance(pair[0], kinds)]
    with torch.no_grad():
        for i, (old, new) in enumerate(layers):
            share = first * (last / first) ** (i / max(len(layers) - 1, 1))
            for ours, theirs in zip(old.parameters(), new.parameters(), strict=True):
                anew = (torch.rand(ours.shape, generator=draw) < share).to(ours.device)
                ours.copy_(torch.where(anew, theirs, ours))

    def match(ours: Taps, theirs: Taps) -> Tensor:
        return -F.cosine_similarity(ours.logits, theirs.logits).mean()

    return learn(student, clean, encoder, match, contrast=0.0, flip=flip, training=training, rng=rng)
