"""Rows: items with labels, cut into parts and put into order. Nothing here knows what an item is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Generator, Tensor

from ..errors import BadInput
from ..seeds import rng as make_rng

R = TypeVar("R", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """Items and their labels; frozen, indexable by masks and slices. A kind of data, such as images, is a subclass.

    Args:
        x: [N,…], one item a row.
        y: int64 [N] class numbers 0..K-1, or float32 [N,K] soft labels.
        classes: the K class names.
        name: where the items come from, for records.
        index: int64 [N], the row of each item in its source split (default 0..N-1).
        group: int64 [N] or None; items of one group (frames of one track) are never split apart.

    Raises:
        BadInput: labels do not fit, or the set is empty.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str = "rows"
    index: Tensor = field(default=None)  # type: ignore[assignment]
    group: Tensor | None = None

    item: ClassVar[str] = "row"  # what a message calls one

    def __post_init__(self) -> None:
        n, k = len(self.x), len(self.classes)
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(n))
        if n == 0:
            raise BadInput(f"{self.name}: the split is empty. Ask for a larger share, or give more {self.item}s.")
        if len(self.y) != n:
            raise BadInput(f"{self.name}: {n} {self.item}s but {len(self.y)} labels; give one label per {self.item}.")
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

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Self:
        """Take rows by mask, slice or integer tensor; everything that has one entry a row comes along."""
        on_cpu = rows.cpu() if isinstance(rows, Tensor) else rows  # where `to` leaves all but items and labels
        return replace(self, x=self.x[rows], y=self.y[rows], **self._beside(on_cpu))

    def _beside(self, rows: Any) -> dict[str, Any]:
        """Fields with one entry a row, besides items and labels, for some rows."""
        return {"index": self.index[rows], "group": None if self.group is None else self.group[rows]}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def hard(self) -> Tensor:
        """Class numbers int64 [N]; of a soft label, its largest entry."""
        return self.y if self.y.ndim == 1 else self.y.argmax(1)

    def to(self, device: torch.device | str) -> Self:
        """The same set on another device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def fraction(self, share: float, rng: Generator) -> Self:
        """A random share (0..1] of the rows, whole groups together, in source order."""
        return split(self, {"part": share}, rng)["part"]

    def order(self, size: int, rng: Generator | None = None) -> Iterator[Any]:
        """Which rows make up each batch.

        With `rng`: shuffled, and the short last batch is dropped if there is a full one. Without: in order, every row.
        """
        n = len(self)
        if rng is None:
            yield from (slice(start, start + size) for start in range(0, n, size))
            return
        order = torch.randperm(n, generator=rng)
        for start in range(0, max(n - size, 0) + 1, size):
            yield order[start : start + size].to(self.x.device)


def split(rows: R, shares: dict[str, float], rng: Generator) -> dict[str, R]:
    """Cut disjoint random parts, each a share 0..1 of `rows`; a group never straddles two parts.

    Args:
        rows: the set to cut.
        shares: name → share of the rows. Their sum is at most 1.
        rng: decides who goes where.

    Raises:
        BadInput: a share outside 0..1, a sum above 1, or a part without a row.
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
        whole = share_so_far > 1 - 1e-9
        stop = len(order) if whole else int(torch.searchsorted(filled, round(share_so_far * n), right=True))
        taken = torch.isin(units, order[start:stop]).nonzero().flatten()
        if not len(taken):
            raise BadInput(
                f"{rows.name}: a share of {share} for {name!r} holds no {rows.item}; ask for a larger share."
            )
        parts[name] = rows[taken.to(rows.x.device)]
        start = stop
    return parts


class Roles(NamedTuple, Generic[R]):
    """Three disjoint parts of the training rows; the test rows are a fourth role of their own."""

    train: R
    clean: R  # the defender's
    validation: R  # every choice is made on it


def roles(rows: R, *, clean: float = 0.05, validation: float = 0.05, rng: Generator | None = None) -> Roles[R]:
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
