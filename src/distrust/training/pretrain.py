"""Pre-training: an encoder learns from images without their labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..data import PLAIN, ImageSet, Views
from ..errors import BadInput
from ..measurement.predict import predict
from ..models import check_encoder
from ..seeds import rng as make_rng
from ..seeds import seeded, spawn
from .loop import Monitor, loop
from .options import Training
from .probing import fit_head

ADAM = Training(
    optimizer="adam", lr=1e-3, weight_decay=1e-6, schedule="constant", batch_size=256, augment=PLAIN
)  # fmt: skip


def pretrain(
    encoder: nn.Module,
    images: ImageSet,
    *,
    loss: Any,
    views: Callable[[Tensor, Generator], Tensor] = Views(),  # noqa: B008 - frozen
    training: Training = ADAM,
    monitor: Monitor | None = None,
    rng: Generator | None = None,
    device: torch.device | str | None = None,
    **changes: Any,
) -> nn.Module:
    """Train a copy of `encoder` so that two views of an image have like features; return it in eval mode.

    Args:
        encoder: images [B,C,H,W] in 0..1 → features [B,D], such as `model("wrn16-1", images, head=False)`.
        images: labels are not looked at.
        loss: one of `distrust.objectives`, a class or an object; its projector is trained along and thrown away.
        views: draws one view of a batch.
        training: epochs, rate, batch size, …; Adam at 1e-3, weight decay 1e-6, batches of 256. Views take the place of
            its augmentation.
        monitor: called with the encoder after every epoch; a `NeighbourMonitor` tells what the features are worth.
        rng: decides order, views and the projector's start.
        device: where to train (default: where the encoder is).
        **changes: fields of `training` by name.

    Raises:
        BadInput: a classifier, or fewer images than a batch.
        Diverged: as `fit`.
    """
    width = check_encoder(encoder, images)
    training = replace(training.changed(**changes), augment=PLAIN)
    check_batch(images, training.batch_size)
    rng = rng or make_rng("pretrain")
    loss = copy.deepcopy(loss() if isinstance(loss, type) else loss)
    with seeded(spawn(rng)):
        loss.bind(width)
    draw = spawn(rng)

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        one, two = seen(model, x, views, draw)
        with torch.autocast(x.device.type, enabled=False):
            return loss(one, two)

    blind = images.replace(y=torch.zeros_like(images.hard))  # the loop times itself on labels, as if D were K
    return loop(
        copy.deepcopy(encoder), blind, objective, training, rng=rng, device=device, extra=[loss], monitor=monitor
    )


class NeighbourMonitor:
    """The usual monitor of pre-training: how many labels the nearest neighbours in feature space name rightly.

    It only looks: pre-training with it gives the same bits as without. Choose by `asked`, never by test images.

    Args:
        known: labelled images that vote.
        asked: labelled images that are asked about, none of which is among `known`.
        head: of `distrust.heads`, as a selector.

    Attributes:
        accuracy: 0..1, one number for each call.
    """

    def __init__(self, known: ImageSet, asked: ImageSet, head: str = "knn") -> None:
        self.known, self.asked, self.head = known, asked, head
        self.accuracy: list[float] = []

    def __call__(self, encoder: nn.Module) -> None:
        """Look once more."""
        said = predict(fit_head(encoder, self.known, self.head), self.asked)
        self.accuracy.append(float((said == self.asked.hard.to(said.device)).double().mean()))


def seen(model: nn.Module, x: Tensor, views: Callable[[Tensor, Generator], Tensor], rng: Generator) -> list[Tensor]:
    """Float32 features of two views of a batch, in one pass."""
    with torch.autocast(x.device.type, enabled=False):
        both = torch.cat([views(x, rng), views(x, rng)])
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return list(model(both.contiguous(memory_format=layout)).float().chunk(2))


def check_batch(images: ImageSet, batch_size: int) -> None:
    """Refuse fewer images than a batch: what a contrastive loss compares with would be missing.

    Raises:
        BadInput: says how many there are.
    """
    if len(images) < batch_size:
        raise BadInput(f"{images.name} has {len(images)} images, fewer than a batch of {batch_size}. Lower batch_size.")
