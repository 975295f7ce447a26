"""ImageSet: images and labels as two tensors, augmented and stamped in batched tensor code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Generator, Tensor, nn

from ..errors import BadInput
from ..pictures import figure, sheet
from .augment import PLAIN, Change
from .base import Rows
from .mapped import rows_within

SHEET = 10  # classes that a notebook is shown, and images of each
CHUNK = 2**22  # bytes of images that are compared, or stamped, at a time


class Late(NamedTuple):
    """A trigger that is stamped after augmentation, as an attacker who controls training would."""

    rows: Tensor  # bool [N]: which images are stamped
    trigger: nn.Module


@dataclass(frozen=True, repr=False)
class ImageSet(Rows):
    """Images and their labels; frozen, indexable by masks and slices.

    Args:
        x: uint8 [N,C,H,W] raw images, or float32 [N,C,H,W] in pixel units 0..1 (which a synthetic set may
            leave). Many that lie on disk are a `mapped.Mapped`, which reads rows as they are taken.
        y: int64 [N] class numbers 0..K-1, or float32 [N,K] soft labels.
        classes: the K class names.
        name: where the images come from, for records.
        index: int64 [N], the row of each image in its source split (default 0..N-1).
        group: int64 [N] or None; images of one group (frames of one track) are never split apart.
        late: a trigger stamped after augmentation, or None.
        taint: names of the attacks among this set's ancestors.
        off_range: float images may leave 0..1; only a published synthetic set needs that, and it is flagged.
        training: of a synthetic set, how its maker trains networks on it, as `Training.plain` writes it or a part of
            that, or None; `recipe` makes a `Training` of it.

    Raises:
        BadInput: shapes, dtypes, pixel values or labels do not fit, or the set is empty.
    """

    name: str = "images"
    late: Late | None = None
    taint: tuple[str, ...] = ()
    off_range: bool = False
    training: Mapping[str, Any] | None = None

    item: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.x.ndim != 4 or self.x.dtype not in (torch.uint8, torch.float32):
            raise BadInput(
                f"{self.name}: images must be uint8 or float32 [N,C,H,W]; got {self.x.dtype} "
                f"{list(self.x.shape)}. Convert with x.permute(0, 3, 1, 2) or x.float() / 255."
            )
        if self.x.dtype == torch.float32 and not self.off_range:
            least, most = float(self.x.min()), float(self.x.max())
            if not (least >= 0 and most <= 1):
                raise BadInput(
                    f"images must lie in [0, 1]; got [{least:.2f}, {most:.2f}]. They look normalised: put "
                    "dt.Normalize(mean, std) inside the model and pass raw images."
                )

    def _beside(self, rows: Any) -> dict[str, Any]:
        late = None if self.late is None else Late(self.late.rows[rows], self.late.trigger)
        return {**super()._beside(rows), "late": late}

    def __repr__(self) -> str:
        tainted = f", tainted by {'+'.join(self.taint)}" if self.taint else ""
        size = "×".join(map(str, self.x.shape[1:]))
        return f"ImageSet({self.name}: {len(self)} images {size}, {len(self.classes)} classes{tainted})"

    def _repr_html_(self) -> str:
        """Some images of each class, for a notebook: a row each."""
        there = self.hard.unique().tolist()[:SHEET]
        rows = [self.hard.eq(k).nonzero().flatten()[:SHEET] for k in there]
        many = min(map(len, rows))
        names = ", ".join(self.classes[k] for k in there)
        more = "" if len(there) == len(self.classes) else f", {len(there)} of the classes"
        drawn = sheet([self.pixels(row[:many]) for row in rows])
        return figure(repr(self), drawn, f"Rows{more}: {names}.")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            BadInput: a second trigger after augmentation, which would silently displace the first.
        """
        if self.late is not None and changes.get("late") is not None:
            raise BadInput(f"{self.name} already has a trigger that is stamped after augmentation. Use stamp='before'.")
        return super().replace(**changes)

    def pixels(self, rows: Any = slice(None)) -> Tensor:
        """Images as float32 [n,C,H,W] in pixel units; raw images become 0..1."""
        return floats(self.x[rows])

    def batches(
        self, size: int, rng: Generator | None = None, augment: Change = PLAIN
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (float32 [B,C,H,W], labels) batches.

        With `rng`: shuffled, augmented, and the short last batch is dropped if there is a full one.
        Without: in order, plain, every image.
        """
        for rows in self.order(size, rng):
            if rng is None:
                yield self.pixels(rows), self.y[rows]
                continue
            x = floats(augment(self.x[rows], rng))
            if self.late is not None:
                stamped = self.late.rows.to(x.device)[rows]
                x[stamped] = as_8_bit(self.late.trigger(x[stamped]))
            yield x, self.y[rows]


def floats(x: Tensor) -> Tensor:
    """Images in pixel units: uint8 becomes float32 0..1, float images are taken as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def as_8_bit(x: Tensor) -> Tensor:
    """What a displayable file would hold of float images: clamped to 0..1 and rounded to 256 levels."""
    return x.clamp(0, 1).mul(255).round_().div_(255)


def stored(pixels: Tensor, like: Tensor) -> Tensor:
    """Images in 0..1, on 8 bits, as a set holds them whose images are `like`."""
    return (pixels * 255).round().to(like) if like.dtype == torch.uint8 else pixels.to(like)


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


def changed(before: ImageSet, after: ImageSet) -> Tensor:
    """bool [M]: which images of `after` are not, bit for bit, the image of `before` with the same index.

    Raises:
        BadInput: `after` holds an image that `before` does not have.
    """
    rows, each = rows_in(before, after), rows_within(after.x, CHUNK)
    pairs = zip(rows.split(each), after.x.split(each), strict=True)
    return torch.cat([(before.x[at] != x).flatten(1).any(1).cpu() for at, x in pairs])
