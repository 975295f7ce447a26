"""Pictures: files of a closed list of formats, with no more pixels than are taken; and PNGs for a reader."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from markupsafe import Markup
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


def png(image: Tensor) -> bytes:
    """A PNG of uint8 [C,H,W], one or three channels."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # [H,W,C]
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def sheet(rows: Sequence[Tensor], least: int = 48) -> bytes:
    """A PNG of rows of images, a white line between them.

    Args:
        rows: each float [N,C,H,W] in 0..1, of the same shape.
        least: pixels that an image is high at least: smaller ones are enlarged by a whole number.
    """
    times = max(math.ceil(least / rows[0].shape[2]), 1)
    framed = torch.nn.functional.pad(torch.stack([*rows]).cpu(), (0, 1, 0, 1), value=1.0)  # [R,N,C,H,W]
    whole = framed.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  # [C,R·H,N·W]
    large = whole.repeat_interleave(times, 1).repeat_interleave(times, 2)
    return png((large.clamp(0, 1) * 255).round().byte())


def figure(title: str, picture: bytes, caption: str = "") -> Markup:
    """A PNG with words as HTML, for a notebook; the words are escaped."""
    source = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(title, b64encode(picture).decode())
    return Markup("<figure><b>{}</b><br>{}<figcaption>{}</figcaption></figure>").format(title, source, caption)
