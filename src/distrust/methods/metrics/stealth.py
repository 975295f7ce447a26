"""Stealth: what a curator could see of a poisoned transfer set, and what the teacher says of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ...data import ImageSet
from ...data.images import changed, rows_in
from ...marks import Column, metric
from ...measurement import Backdoor, predict
from ...measurement.predict import BATCH


@metric(
    paper="ours; ssim: Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004",
    place=3, aside=True, order=31,
    fields={
        "poison_n": Column(heading="Images changed", unit="count", high=None),
        "poison_share": Column(heading="Share of the set"),
        "poison_hits": Column(heading="Poisons that fool the teacher"),
        "poison_agreement": Column(heading="Poisons that the teacher reads right"),
        "poison_agreement_clean": Column(heading="Others that it reads right"),
        "poison_linf": Column(heading="Largest change, grey levels", unit="", high=255.0),
        "poison_l2": Column(heading="Norm of the change", unit="", high=None),
        "poison_ssim": Column(heading="SSIM of poisons", unit="ratio", low=-1.0),
    },
)  # fmt: skip
def stealth(
    teacher_model: nn.Module, before: ImageSet, poisoned: ImageSet, backdoor: Backdoor
) -> Mapping[str, float | None]:
    """Compare a poisoned transfer set with the clean one, image by image; means over the poisoned images.

    poison_n: how many they are; poison_share: of the set. poison_hits: the share on which the teacher says the target;
    poison_agreement: their true label; poison_agreement_clean: the same of the set's other images, which is what a
    curator expects. poison_linf: the largest change of a pixel in grey levels 0..255, and poison_l2: the Euclidean norm
    of the change, pixels in 0..1, both beside the trigger's own: against the original with the trigger or the plain
    one, whichever is nearer. poison_ssim: structural similarity to the original, 1 = equal (11×11 Gaussian window).
    None where there is no image.

    Args:
        teacher_model: the model that will label the images.
        before: the clean set.
        poisoned: the poisoned one; labels are `before`'s.
        backdoor: whose trigger may lie on the poisoned images.

    Raises:
        BadInput: `poisoned` holds an image that `before` does not have.

    Differs from the paper: images are padded at the border, as kornia does.
    """
    from kornia.metrics import ssim  # takes a second to import

    rows, touched = rows_in(before, poisoned), changed(before, poisoned)
    said, true = predict(teacher_model, poisoned), before.hard.cpu()[rows]
    right = (said == true).double()
    n = int(touched.sum())
    clean = float(right[~touched].mean()) if n < len(poisoned) else None
    names = ("hits", "agreement", "linf", "l2", "ssim")
    found = {"n": n, "share": n / len(poisoned), "agreement_clean": clean, **dict.fromkeys(names)}
    if n:
        linf, l2, alike = [], [], []
        for part in touched.nonzero().flatten().split(BATCH):
            x, original = poisoned.pixels(part).cpu(), before.pixels(rows[part]).cpu()
            change = torch.stack([x - original, x - backdoor.stamp_on(original)]).flatten(2)  # [2,B,C·H·W]
            norms = change.norm(dim=2)
            nearer = norms.argmin(0)
            each = torch.arange(len(part))
            linf.append(change.abs().amax(2)[nearer, each] * 255)
            l2.append(norms[nearer, each])
            alike.append(ssim(x, original, 11).flatten(1).mean(1))
        means = [float(torch.cat(values).double().mean()) for values in (linf, l2, alike)]
        hits = float((said[touched] == backdoor.target).double().mean())
        found |= dict(zip(names, (hits, float(right[touched].mean()), *means), strict=True))
    return {f"poison_{name}": value for name, value in found.items()}
