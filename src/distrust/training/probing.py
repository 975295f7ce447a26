"""Encoding: features of a frozen encoder, and the head that makes a classifier of it, measured as any other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..data.images import ImageSet
from ..flags import flag
from ..models import at_once, check_encoder, eval_mode, laid_out
from ..registry import registry
from ..seeds import rng as make_rng
from ..selectors import parse_one

BATCH = 256
SAME = 1e-4  # spread of features of length 1 that are all the same
Head = Callable[..., nn.Module]


class Probe(nn.Module):
    """An encoder and a head: images [B,C,H,W] in 0..1 → logits [B,K]. Features have length 1 in between."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        """Images → logits."""
        return self.head(F.normalize(self.encoder(x).float(), dim=1))


def fit_head(
    encoder: nn.Module,
    train: ImageSet,
    head: str | Head = "linear",
    rng: Generator | None = None,
    seen: Tensor | None = None,
) -> Probe:
    """Fit a head to a frozen encoder's features of a downstream set.

    Args:
        encoder: images in 0..1 → features [B,D]; shared, not copied, and left as it is.
        train: the downstream images, with labels.
        head: one of `distrust.heads` as a selector, such as "linear", "knn[k=50]" or "mlp[epochs=100]", or a function
            (features [N,D], y [N], K, rng=…) → module.
        rng: what the head draws from.
        seen: the encoder's features of `train`, where they are known.

    Raises:
        BadInput: a classifier in place of the encoder, or an option that is out of bounds.
        NotFound: no such head.

    A constant encoder raises the flag `collapsed`.
    """
    check_encoder(encoder, train)
    if isinstance(head, str):
        selector = parse_one(head)
        method = registry.get("heads", selector.name)
        fit: Head = method.made(method.check(selector.options))
    else:
        fit = head
    seen = features(encoder, train) if seen is None else seen.to(next(encoder.parameters()).device)
    if seen.std(0, correction=0).max() < SAME:
        flag("collapsed", "the encoder gives every image the same feature; no head can tell classes apart.")
    fitted = fit(seen, train.hard.to(seen.device), len(train.classes), rng=rng or make_rng("head"))
    return Probe(encoder, fitted.eval())


def typical(encoder: nn.Module, images: ImageSet, count: int = 1) -> ImageSet:
    """The images whose features lie nearest to their mean; as references of an attack, few heads mistake their class.

    Args:
        encoder: images in 0..1 → features [B,D].
        images: of one class.
        count: how many, nearest first; all there are, if fewer.
    """
    seen = features(encoder, images)
    near = (seen @ seen.mean(0)).argsort(descending=True, stable=True)
    return images[near[:count].to(images.x.device)]


def features(encoder: nn.Module, images: ImageSet) -> Tensor:
    """Float32 features [N,D] of length 1, of plain images, on the encoder's device."""
    device = next(encoder.parameters()).device
    with eval_mode(encoder), torch.no_grad():
        batches = images.batches(at_once(images.x.shape[1:], BATCH))
        parts = [encoder(laid_out(x.to(device))).float() for x, _ in batches]
    return F.normalize(torch.cat(parts), dim=1)
