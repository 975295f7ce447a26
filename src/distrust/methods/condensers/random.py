"""Random real images: the null row of condensation."""

from __future__ import annotations

from torch import Generator

from ...data import ImageSet
from ...marks import Count, condenser
from ...seeds import rng as make_rng
from .._costs import free
from ._canvas import Canvas


@condenser(paper="null row", null=True, cost=free)
def random(
    train: ImageSet, *, images_per_class: Count = 1, flip: bool = True, rng: Generator | None = None
) -> ImageSet:
    """Draw `images_per_class` real images of every class.

    Args:
        train: images to draw from.
        images_per_class: of every class.
        flip: networks may be trained on mirrored images; not for digits or signs.
        rng: decides who is drawn.

    Raises:
        BadInput: a class has fewer images, or labels are soft.

    Differs from the paper: there is none.
    """
    canvas = Canvas(train, images_per_class, init="real", legal=True, flip=flip, rng=rng or make_rng("random"))
    return canvas.finish("random", augment=canvas.siamese)
