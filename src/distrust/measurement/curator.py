"""What a curator could see of a poisoned transfer set, and what the teacher says of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.images import ImageSet
from ..errors import BadInput
from .backdoor import Backdoor
from .predict import BATCH, predict


class Stealth(NamedTuple):
    """Of the poisoned images of a set, means over them. Shares are fractions 0..1, None where there is no image."""

    n: int  # poisoned images
    share: float  # of the set
    hits: float | None  # on which the teacher says the target
    agreement: float | None  # on which the teacher says the true label
    agreement_clean: float | None  # the same on the set's other images: what a curator expects
    linf: float | None  # largest change of a pixel, in grey levels 0..255, beside the trigger's own
    l2: float | None  # Euclidean norm of the change, pixels in 0..1, beside the trigger's own
    ssim: float | None  # structural similarity to the original, 1 = equal (Wang et al., 2004; 11×11 Gaussian window)


def changed(before: ImageSet, after: ImageSet) -> Tensor:
    """bool [M]: which images of `after` are not, bit for bit, the image of `before` with the same index.

    Raises:
        BadInput: `after` holds an image that `before` does not have.
    """
    rows = rows_in(before, after)
    return (before.x[rows] != after.x).flatten(1).any(1).cpu()


def difference(before: ImageSet, after: ImageSet) -> dict[str, float]:
    """How far a synthetic set was moved: images added, share of the others changed, and how far those went.

    `linf` and `l2` are means over the changed images: the largest change of a pixel, in grey levels 0..255, and the
    Euclidean norm of the change, pixels in 0..1.
    """
    moved = after.x[: len(before)] - before.x
    touched = moved[moved.flatten(1).abs().amax(1) > 0].flatten(1)
    n = len(touched)
    return {
        "added": len(after) - len(before), "share": n / len(before),
        "linf": float(touched.abs().amax(1).mean() * 255) if n else 0.0,
        "l2": float(touched.norm(dim=1).mean()) if n else 0.0,
    }  # fmt: skip


def rows_in(before: ImageSet, after: ImageSet) -> Tensor:
    """int64 [M]: the row in `before` of each image of `after`, found by index.

    Raises:
        BadInput: `after` holds an image that `before` does not have.
    """
    sorted_, order = before.index.sort()
    at = torch.searchsorted(sorted_, after.index).clamp(max=len(before) - 1)
    if not torch.equal(sorted_[at], after.index):
        raise BadInput(f"{after.name} holds images that {before.name} does not have; keep their index.")
    return order[at]


def stealth(teacher: nn.Module, before: ImageSet, after: ImageSet, backdoor: Backdoor) -> Stealth:
    """Compare a poisoned transfer set with the clean one, image by image.

    Args:
        teacher: the model that will label the images.
        before: the clean set.
        after: the poisoned one; labels are `before`'s.
        backdoor: whose trigger may lie on the poisoned images: the change is measured against the original with the
            trigger or the plain one, whichever is nearer.
    """
    from kornia.metrics import ssim  # takes a second to import

    rows, poisoned = rows_in(before, after), changed(before, after)
    said, true = predict(teacher, after), before.hard.cpu()[rows]
    right = (said == true).double()
    n = int(poisoned.sum())
    clean = float(right[~poisoned].mean()) if n < len(after) else None
    if not n:
        return Stealth(0, 0.0, None, None, clean, None, None, None)
    linf, l2, alike = [], [], []
    for part in poisoned.nonzero().flatten().split(BATCH):
        x, original = after.pixels(part).cpu(), before.pixels(rows[part]).cpu()
        change = torch.stack([x - original, x - backdoor.stamp_on(original)]).flatten(2)  # [2,B,C·H·W]
        norms = change.norm(dim=2)
        nearer = norms.argmin(0)
        each = torch.arange(len(part))
        linf.append(change.abs().amax(2)[nearer, each] * 255)
        l2.append(norms[nearer, each])
        alike.append(ssim(x, original, 11).flatten(1).mean(1))
    means = [float(torch.cat(values).double().mean()) for values in (linf, l2, alike)]
    hits = float((said[poisoned] == backdoor.target).double().mean())
    return Stealth(n, n / len(after), hits, float(right[poisoned].mean()), clean, *means)
