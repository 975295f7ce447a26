"""ImageSet: images and labels as two tensors, cut into parts, augmented and stamped in batched tensor code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ..errors import BadInput
from ..seeds import rng as make_rng
from .augment import PLAIN, Change


class Late(NamedTuple):
    """A trigger that is stamped after augmentation, as an attacker who controls training would."""

    rows: Tensor  # bool [N]: which images are stamped
    trigger: nn.Module


@dataclass(frozen=True, repr=False)
class ImageSet:
    """Images and their labels; frozen, indexable by masks and slices.

    Args:
        x: uint8 [N,C,H,W] raw images, or float32 [N,C,H,W] in pixel units 0..1 (which a synthetic set may
            leave).
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

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str = "images"
    index: Tensor = field(default=None)  # type: ignore[assignment]
    group: Tensor | None = None
    late: Late | None = None
    taint: tuple[str, ...] = ()
    off_range: bool = False
    training: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        n, k = len(self.x), len(self.classes)
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(n))
        if n == 0:
            raise BadInput(f"{self.name}: the split is empty. Ask for a larger share, or give more images.")
        if len(self.y) != n:
            raise BadInput(f"{self.name}: {n} images but {len(self.y)} labels; give one label per image.")
        if self.y.dtype == torch.int64 and self.y.ndim == 1:
            low, high = int(self.y.min()), int(self.y.max())
            if low < 0 or high >= k:
                raise BadInput(
                    f"{self.name}: labels must be 0..{k - 1} for {k} classes; got {low}..{high}. "
                    "Renumber them, or name every class."
                )
        elif self.y.dtype != torch.float32 or self.y.shape != (n, k):
            raise BadInput(
                f"{self.name}: labels must be int64 [N] or float32 [N,{k}]; got {self.y.dtype} {list(self.y.shape)}."
            )

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

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> ImageSet:
        """Take images by mask, slice or integer tensor; everything that has one entry an image comes along."""
        at = rows.cpu() if isinstance(rows, Tensor) else rows  # where `to` leaves all but images and labels
        late = None if self.late is None else Late(self.late.rows[at], self.late.trigger)
        group = None if self.group is None else self.group[at]
        return replace(self, x=self.x[rows], y=self.y[rows], index=self.index[at], group=group, late=late)

    def __repr__(self) -> str:
        tainted = f", tainted by {'+'.join(self.taint)}" if self.taint else ""
        size = "×".join(map(str, self.x.shape[1:]))
        return f"ImageSet({self.name}: {len(self)} images {size}, {len(self.classes)} classes{tainted})"

    def replace(self, **changes: Any) -> ImageSet:
        """A copy with some fields changed.

        Raises:
            BadInput: a second trigger after augmentation, which would silently displace the first.
        """
        if self.late is not None and changes.get("late") is not None:
            raise BadInput(f"{self.name} already has a trigger that is stamped after augmentation. Use stamp='before'.")
        return replace(self, **changes)

    @property
    def hard(self) -> Tensor:
        """Class numbers int64 [N]; of a soft label, its largest entry."""
        return self.y if self.y.ndim == 1 else self.y.argmax(1)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on another device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def fraction(self, share: float, rng: Generator) -> ImageSet:
        """A random share (0..1] of the images, whole groups together, in source order."""
        return split(self, {"part": share}, rng)["part"]

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
        n = len(self)
        if rng is None:
            for start in range(0, n, size):
                rows: Any = slice(start, start + size)
                yield self.pixels(rows), self.y[rows]
            return
        order = torch.randperm(n, generator=rng)
        for start in range(0, max(n - size, 0) + 1, size):
            rows = order[start : start + size].to(self.x.device)
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
    rows = rows_in(before, after)
    return (before.x[rows] != after.x).flatten(1).any(1).cpu()


def split(rows: ImageSet, shares: dict[str, float], rng: Generator) -> dict[str, ImageSet]:
    """Cut disjoint random parts, each a share 0..1 of `rows`; a group never straddles two parts.

    Args:
        rows: the set to cut.
        shares: name → share of the images. Their sum is at most 1.
        rng: decides who goes where.

    Raises:
        BadInput: a share outside 0..1, a sum above 1, or a part without an image.
    """
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise BadInput(f"share {name}={share} is outside (0, 1]; give a fraction such as 0.05.")
    if sum(shares.values()) > 1 + 1e-9:
        raise BadInput(f"shares {shares} add up to more than 1; make them smaller.")
    n = len(rows)
    group = torch.arange(n) if rows.group is None else rows.group
    _, units, size = group.unique(return_inverse=True, return_counts=True)
    order = torch.randperm(len(size), generator=rng)
    filled = size[order].cumsum(0)  # rows in the first k units of the shuffled order
    parts, start, share_so_far = {}, 0, 0.0
    for name, share in shares.items():
        share_so_far += share
        stop = int(torch.searchsorted(filled, round(share_so_far * n), right=True))
        if share_so_far > 1 - 1e-9:
            stop = len(order)
        chosen = torch.zeros(len(size), dtype=torch.bool)
        chosen[order[start:stop]] = True
        taken = chosen[units].nonzero().flatten()
        if not len(taken):
            raise BadInput(f"{rows.name}: a share of {share} for {name!r} holds no image; ask for a larger share.")
        parts[name] = rows[taken.to(rows.x.device)]
        start = stop
    return parts


class Roles(NamedTuple):
    """Three disjoint parts of the training images; the test images are a fourth role of their own."""

    train: ImageSet
    clean: ImageSet  # the defender's
    validation: ImageSet  # every choice is made on it


def roles(rows: ImageSet, *, clean: float = 0.05, validation: float = 0.05, rng: Generator | None = None) -> Roles:
    """Cut `rows` into training, the defender's clean subset and validation, recorded by `index`.

    Args:
        rows: the source's training split.
        clean: share 0..1 for the defender.
        validation: share 0..1 on which choices are made.
        rng: decides who goes where (default: a fixed stream, so that the roles are the same for everyone).
    """
    rest = 1.0 - clean - validation
    if rest <= 0:
        raise BadInput(f"clean={clean} and validation={validation} leave nothing to train on; make them smaller.")
    shares = {"clean": clean, "validation": validation, "train": rest}
    return Roles(**split(rows, shares, rng or make_rng(rows.name, "roles")))
