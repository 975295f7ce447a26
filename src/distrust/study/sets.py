"""A changed transfer set in the store: which images are left, and the pixels of those that changed."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..curator import changed, rows_in
from ..imageset import ImageSet
from .store import pack


def pack_set(before: ImageSet, after: ImageSet) -> bytes:
    """`after` as its difference from `before`: a few images instead of all of them."""
    at = changed(before, after).nonzero().flatten()
    return pack(rows=rows_in(before, after), at=at, x=after.x[at])


def unpack_set(before: ImageSet, tensors: Mapping[str, Tensor], taint: tuple[str, ...]) -> ImageSet:
    """What `pack_set` was given, from the same `before`."""
    images = before[tensors["rows"]]
    x = images.x.clone()
    x[tensors["at"]] = tensors["x"]
    return images.replace(x=x, taint=taint)
