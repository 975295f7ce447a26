"""Pictures that an attack needs beside the training images: from a source that the user names, or bundled ones."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ...data.images import as_8_bit, floats
from ...data.sources import images as open_images
from ...errors import BadInput
from ...selectors import divided, parse_one

PHOTOS = "photos"  # scikit-learn's two photographs, of a palace and of a flower
SIDE = 128  # least of a crop of them, so that it still shows something


def pictures(source: str, shape: tuple[int, ...], count: int, rng: Generator) -> Tensor:
    """At most `count` pictures as uint8 [R,C,H,W], of the height and width of `shape` (C,H,W).

    Args:
        source: "photos" for random crops of scikit-learn's two photographs, in colour; else images as `images` opens
            them, whose training split is drawn from: `cifar100`, `FOLDER[size=64]`.
        shape: of the images that they are for.
        count: how many.
        rng: decides which.

    Raises:
        NotFound, BadInput, UnsafeFile: what `images` says of a source, an empty one among others; or the pictures are
            smaller than the images.
    """
    channels, height, width = shape
    if source == PHOTOS:
        return _crops(count, height, width, rng)
    selector = parse_one(source)
    x = open_images(divided(selector.name)[0], **{"channels": channels, **selector.options}).train.x
    if x.shape[2] < height or x.shape[3] < width:
        raise BadInput(
            f"the pictures of {source} are {x.shape[2]}×{x.shape[3]}, smaller than the images of {height}×{width}. "
            f"Give larger ones, or have them enlarged: '{selector.fixed(size=max(height, width)).text}'."
        )
    rows = torch.randperm(len(x), generator=rng)[:count].sort().values
    return _resized(floats(x[rows]), height, width)


def _crops(count: int, height: int, width: int, rng: Generator) -> Tensor:
    from sklearn.datasets import load_sample_images  # takes a second to import

    photos = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    most = min(min(photo.shape[1:]) for photo in photos)
    if max(height, width) > most:
        raise BadInput(
            f"the bundled photographs are {most} pixels high, less than the images of {height}×{width}. Name a source."
        )
    found = []
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(torch.randint(max(SIDE, height, width), most + 1, (), generator=rng))
        top, left = (int(torch.randint(n - side + 1, (), generator=rng)) for n in photo.shape[1:])
        found.append(_resized(floats(photo[None, :, top : top + side, left : left + side]), height, width))
    return torch.cat(found)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    small = F.interpolate(x, (height, width), mode="bilinear", antialias=True)
    return as_8_bit(small).mul(255).round().to(torch.uint8)
