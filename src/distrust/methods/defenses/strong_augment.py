"""Strong augmentation: the student sees turned, recoloured, blurred and partly erased versions of the images."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, nn

from ...data import ImageSet, as_8_bit
from ...data.images import stored
from ...data.mapped import collected
from ...marks import Count, NonNegative, Rate, defense
from ...models import at_once
from ...seeds import rng as make_rng
from ...seeds import seeded
from .._costs import free

BATCH = 512


@defense(
    paper="Borgnia et al., Strong Data Augmentation Sanitizes Poisoning and Backdoor Attacks, ICASSP 2021, "
    "arXiv 2011.09527",
    on="transfer", cost=free,
)  # fmt: skip
def strong_augment(
    teacher: nn.Module,
    transfer: ImageSet,
    clean: ImageSet,
    *,
    degrees: NonNegative = 15.0,
    translate: Rate = 0.125,
    color: Rate = 0.4,
    blur: Rate = 0.5,
    erase: Rate = 0.5,
    copies: Annotated[Count, Field(le=10)] = 1,
    rng: Generator | None = None,
) -> ImageSet:
    """Replace every image by randomly changed versions of it; the teacher answers on these, as the student sees them.

    Args:
        teacher: not used.
        transfer: the images to change.
        clean: not used.
        degrees: largest rotation.
        translate: largest shift as a share 0..1 of the side; what comes in is black.
        color: strength 0..1 of the changes of brightness, contrast and saturation.
        blur: share 0..1 of the images under a 3×3 Gaussian filter.
        erase: share 0..1 of the images in which a rectangle of 2 to 20 % of the area is blackened.
        copies: versions of each image, 1..10; the set grows by that factor.
        rng: decides all of it.

    Differs from the paper: it studies mixup, CutMix and MaxUp, which mix labels; a teacher needs no labels mixed. The
    versions are made once, not anew in every epoch; the victim's own flip and crop come on top.
    """
    import kornia.augmentation as K  # takes a second to import

    steps: list[nn.Module] = [K.RandomAffine(degrees, translate=(translate, translate), p=1.0)]
    if transfer.x.shape[1] == 3:
        steps.append(K.ColorJitter(color, color, color, 0.0, p=1.0))
    steps += [K.RandomGaussianBlur((3, 3), (0.5, 1.0), p=blur), K.RandomErasing((0.02, 0.2), p=erase)]
    change = nn.Sequential(*steps)
    grown = transfer[torch.arange(len(transfer)).repeat(copies)]
    with torch.no_grad(), seeded(rng or make_rng("strong_augment")):
        size = at_once(grown.x.shape[1:], BATCH)
        x = collected(stored(as_8_bit(change(part)), grown.x).cpu() for part, _ in grown.batches(size))
    return grown.replace(x=x.to(transfer.x.device))
