"""Linear probe: logistic regression on an encoder's features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ...errors import BadInput
from ...marks import Count, Positive, head
from ...models.heads import make


@head(paper="Alain, Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, arXiv 1610.01644")
def linear(
    features: Tensor, y: Tensor, classes: int, *, strength: Positive = 1.0, steps: Count = 500,
    rng: Generator | None = None,
) -> nn.Module:  # fmt: skip
    """Fit softmax regression on standardised features; the standardisation is folded into the layer.

    Args:
        features: [N,D], each of length 1.
        y: class numbers [N].
        classes: K.
        strength: inverse of the L2 penalty.
        steps: of L-BFGS, at most.
        rng: not used.

    Raises:
        BadInput: images of a single class.

    Differs from the paper: the optimum is found by scikit-learn, not approached by SGD.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    if len(y.unique()) < 2:
        raise BadInput(f"linear: all {len(y)} images are of class {int(y[0])}; two classes at least. Give more images.")
    x, mean, std = features.double().cpu().numpy(), features.double().mean(0).cpu(), features.double().std(0).cpu()
    std = std.clamp(min=1e-6)
    fitted = LogisticRegression(C=strength, max_iter=steps).fit((x - mean.numpy()) / std.numpy(), y.cpu().numpy())
    found = [int(k) for k in fitted.classes_]
    weight, bias = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    if len(found) == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    layer: Any = make("linear", features=features.shape[1], classes=classes)
    with torch.no_grad():
        scaled = torch.from_numpy(weight) / std
        layer.weight.zero_()
        layer.bias.fill_(-1e4)  # a class without an image is never answered
        layer.weight[found] = scaled.float()
        layer.bias[found] = (torch.from_numpy(bias) - scaled @ mean).float()
    return layer.to(features.device)
