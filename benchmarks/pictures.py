"""Pictures that every machine can make: smooth, of ten tints, as heavy for a decoder as photographs are."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

import distrust as dt

CLASSES = tuple("abcdefghij")


def pictures(count: int, side: int = 32, first: int = 0) -> dt.ImageSet:
    """So many of them, uint8 [N,3,side,side], in classes `first`..9."""
    source = dt.rng("benchmark")
    y = torch.arange(count) % (len(CLASSES) - first) + first
    tint = torch.rand(len(CLASSES), 3, 1, 1, generator=source)[y]
    coarse = torch.rand(count, 3, 5, 5, generator=source)
    smooth = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    grain = torch.randn(count, 3, side, side, generator=source) / 50
    x = (0.4 * tint + 0.6 * smooth + grain).clamp(0, 1).mul(255).round().to(torch.uint8)
    return dt.ImageSet(x, y, CLASSES, name="pictures")


def write(images: dt.ImageSet, folder: Path) -> list[tuple[Path, int]]:
    """One PNG file an image, in a folder a class; the paths with their class numbers, in order."""
    found = []
    for row, (x, k) in enumerate(zip(images.x.permute(0, 2, 3, 1).numpy(), images.y.tolist(), strict=True)):
        path = folder / images.classes[k] / f"{row:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(path)
        found.append((path, k))
    return found
