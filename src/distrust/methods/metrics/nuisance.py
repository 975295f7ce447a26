"""Nuisance: what a model is like that has nothing to do with a backdoor, and yet decides what a detector says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...data import ImageSet
from ...marks import Column, metric
from ...measurement.predict import outputs
from ...models import last_linear


@metric(
    paper="ours: by which a suspect is like the clean models that it is compared with, or not",
    asked=True, aside=True, order=38,
    fields={
        "confidence": Column(heading="Confidence"),
        "weights": Column(heading="Last layer's weights", unit="", high=None),
    },
)  # fmt: skip
def nuisance(model: nn.Module, clean: ImageSet) -> Mapping[str, float]:
    """How sure a classifier is of clean images, and how long the rows of its last layer are.

    confidence: mean over images of the largest probability, 0..1. weights: mean Euclidean norm of the rows.

    Args:
        model: a classifier.
        clean: images; labels are not looked at.

    Raises:
        BadInput: the model has no linear layer.

    Differs from the paper: there is none.
    """
    sure = outputs(model, clean).softmax(1).amax(1)
    head: Any = last_linear(model, clean.x.shape[1:])
    rows = head.weight.detach().flatten(1)
    return {"confidence": float(sure.mean()), "weights": float(rows.norm(dim=1).mean())}
