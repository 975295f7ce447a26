"""Picture strips: what the trigger does to an image, as small PNG files."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import BadInput

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
    if images.dtype != torch.uint8 or triggered.dtype != torch.uint8:
        raise BadInput(f"pictures are uint8; got {images.dtype} and {triggered.dtype}.")
    if images.shape != triggered.shape or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise BadInput(f"pictures are [N,1|3,H,W] twice; got {[*images.shape]} and {[*triggered.shape]}.")
    before, after = images[:most].cpu(), triggered[:most].cpu()
    difference = (128 + GAIN * (after.int() - before.int())).clamp(0, 255).to(torch.uint8)
    how = f"Difference: {GAIN} × (triggered − clean) around mid grey, clipped."
    return {
        "clean": [_png(x) for x in before],
        "triggered": [_png(x) for x in after],
        "difference": [_png(x) for x in difference],
        "caption": f"{caption} {how}".strip(),
    }


def _png(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # [H,W,C]
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
