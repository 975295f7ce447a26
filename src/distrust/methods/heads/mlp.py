"""The downstream classifier of BadEncoder: a small network on an encoder's features."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from ...data import PLAIN, ImageSet
from ...marks import Count, Positive, Rate, head
from ...models.heads import make
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, cross_entropy, loop
from .._costs import passes


@head(paper="Jia, Liu, Gong, BadEncoder, IEEE S&P 2022, arXiv 2108.00352", cost=passes(0.01))
def mlp(
    features: Tensor, y: Tensor, classes: int, *, epochs: Count = 500, lr: Positive = 1e-4, batch_size: Count = 64,
    dropout: Rate = 0.5, rng: Generator | None = None,
) -> nn.Module:  # fmt: skip
    """Train hidden layers of 512 and 256 units by Adam on features that are computed once.

    Args:
        features: [N,D], each of length 1.
        y: class numbers [N].
        classes: K.
        epochs: passes over the features.
        lr: constant rate.
        batch_size: features a step.
        dropout: share 0..1 after the first layer.
        rng: draws the start, the order and what is dropped.

    Differs from the released code: the order is shuffled.
    """
    rng = rng or make_rng("mlp")
    start = make("perceptron", features=features.shape[1], classes=classes, dropout=dropout, rng=spawn(rng))
    start.to(features.device)
    names = tuple(map(str, range(classes)))
    rows = ImageSet(features[:, :, None, None], y, names, "features", off_range=True)
    training = Training(
        epochs=epochs, batch_size=batch_size, optimizer="adam", lr=lr, weight_decay=0.0, schedule="constant",
        augment=PLAIN, precision="fp32", memory_format="contiguous",
    )  # fmt: skip
    trained = loop(nn.Sequential(nn.Flatten(), start), rows, cross_entropy, training, rng=rng)
    return trained[1]  # type: ignore[index]
