"""Picture strips: what the trigger does to an image, as small PNG files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..pictures import png

GAIN = 10


def strip(images: Tensor, triggered: Tensor, *, most: int = 8, caption: str = "") -> dict[str, Any]:
    """Show clean images, the same with the trigger, and their difference.

    Args:
        images: uint8 [N,C,H,W], one or three channels.
        triggered: the same images with the trigger, same shape and type.
        most: how many to show, ≥ 1.
        caption: what is shown; a sentence on how the difference is drawn is added.

    Returns:
        {"clean", "triggered", "difference": lists of PNG bytes, "caption": str}. The difference is ten times
        (triggered − clean) around mid grey (128), clipped to 0..255: lighter is brighter than before.

    Raises:
        BadInput: another type or shape.
    """
    got = [(x.dtype, x.shape) for x in (images, triggered)]
    if got[0] != got[1] or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise BadInput(f"pictures are uint8 [N,1|3,H,W] twice; got {' and '.join(f'{d} {[*s]}' for d, s in got)}.")
    before, after = images[:most].cpu(), triggered[:most].cpu()
    difference = (128 + GAIN * (after.int() - before.int())).clamp(0, 255).to(torch.uint8)
    shown = {"clean": before, "triggered": after, "difference": difference}
    how = f"Difference: {GAIN} × (triggered − clean) around mid grey, clipped."
    return {kind: [png(x) for x in some] for kind, some in shown.items()} | {"caption": f"{caption} {how}".strip()}
