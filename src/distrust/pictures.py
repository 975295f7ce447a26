"""Pictures in files: a closed list of formats, and no more pixels than are taken, before any is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .bounds import check_bound, most
from .errors import BadInput, NotFound

# What Pillow reads by itself. Others of its formats start programs, such as Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


@contextmanager
def picture_in(source: str | Path | IO[bytes], called: object = None) -> Iterator[Image.Image]:
    """A picture that is open, not decoded yet.

    Args:
        source: a path, or its bytes.
        called: how messages name it (default: the path).

    Raises:
        BadInput: it has more pixels than are taken.
        OSError, SyntaxError, ValueError: Pillow's, of what is no picture of a known format.
    """
    called = source if called is None else called
    try:
        picture: Any = Image.open(source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadInput(f"{called} has more pixels than are taken: {most('pixels'):,}. Make it smaller.") from None
    with picture:
        check_bound("pixels", picture.width * picture.height, called, "pixels")
        yield picture


def open_picture(path: str | Path, *, alpha: bool = False) -> Tensor:
    """A picture file as uint8 [3,H,W].

    Args:
        path: a PNG, JPEG, BMP, GIF, WebP, TIFF or PPM; an animated one gives its first frame.
        alpha: of a picture with transparency, that is kept as a fourth channel.

    Raises:
        NotFound: no such file.
        BadInput: it is not a readable picture, has more than 8 bits a channel, or more pixels than are taken.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"no picture {path}. Give a PNG or JPEG file.")
    try:
        with picture_in(path) as picture:
            if picture.mode[0] in "IF":
                raise ValueError(f"mode {picture.mode}: more than 8 bits a channel")
            clear = alpha and ("A" in picture.getbands() or "transparency" in picture.info)
            pixels = np.array(picture.convert("RGBA" if clear else "RGB"))
            return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    except BadInput:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # all of them Pillow's
        raise BadInput(f"{path} is not a readable picture ({error}). Give a PNG or JPEG file of 8 bits.") from None
