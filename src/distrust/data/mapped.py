"""Mapped: images that lie on disk as one tensor, chosen, changed and joined without a copy of all of them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import BadInput, StoreError
from ..files import cache_directory

LIMIT = 2**26  # bytes; images below it, and a choice of rows below it, are an ordinary tensor in memory
RESIDENT = 2**31  # bytes; images up to it move to an accelerator as a whole, above it as they are taken


class Mapped(Tensor):
    """Rows of arrays, most of which lie on disk, in the place of an ordinary tensor [N,…].

    A few rows, such as a batch takes, are an ordinary tensor. Many are `Mapped` again, and so is a clone, what
    `torch.cat` joins, and what is left when `x[rows] = pixels` puts others in the place of some: for none of these is
    an item of it copied. All else that tensors do is done on a copy in memory (`whole`), except for what changes a
    tensor in place, which is refused.

    Args:
        arrays: [n,…] each, of one dtype and one shape of items; they are only read.
        rows: int64 [N], which item each row is, counted through all arrays.
        device: where rows come to lie when they are taken.
    """

    arrays: tuple[np.ndarray, ...]
    rows: Tensor

    __torch_function__: Any = torch._C._disabled_torch_function_impl  # what is computed from it is an ordinary tensor

    @staticmethod
    def __new__(cls, arrays: tuple[np.ndarray, ...], rows: Tensor, device: torch.device | str = "cpu") -> Mapped:
        """A tensor without memory of its own."""
        shape, dtype = (len(rows), *arrays[0].shape[1:]), torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=torch.device(device))  # type: ignore[attr-defined]
        made.arrays, made.rows = arrays, rows
        return made

    def __getitem__(self, index: Any) -> Tensor:
        """What a tensor would give; of rows by mask, slice, number or integer tensor, only these are read."""
        index, inside = _parted(index)
        if index is None:
            return self.whole()[inside]
        rows = self.rows[index]
        if not inside and rows.ndim == 1 and len(rows) > rows_within(self, LIMIT):
            return Mapped(self.arrays, rows, self.device)
        return self._taken(rows)[(slice(None),) * rows.ndim + inside]

    def __setitem__(self, index: Any, values: Any) -> None:
        """Change rows, by mask, slice, number or integer tensor, or a slice of their pixels."""
        index, inside = _parted(index)
        if index is None:
            raise BadInput("of images on disk, rows or slices of rows can be changed. Change x.whole() instead.")
        at = torch.arange(len(self))[index]
        if inside:
            own = self._taken(self.rows[at])
            own[(slice(None),) * at.ndim + inside] = values
            values = own
        if not isinstance(values, Mapped):
            values = torch.as_tensor(values, dtype=self.dtype).cpu().expand(*at.shape, *self.shape[1:])
            values = values.reshape(-1, *self.shape[1:])
        joined = _joined([self, values], self.device)
        rows = self.rows.clone()  # another choice of rows may share them
        rows[at.flatten()] = joined.rows[len(self) :]
        self.arrays, self.rows = joined.arrays, rows

    def _taken(self, rows: Tensor) -> Tensor:
        """The items of `rows` int64 […], in memory."""
        wanted, start, item = rows.flatten().numpy(), 0, self.shape[1:]
        if len(self.arrays) == 1:
            found = self.arrays[0].take(wanted, 0)
        else:
            found = np.empty((len(wanted), *item), self.arrays[0].dtype)
            for array in self.arrays:
                here = (wanted >= start) & (wanted < start + len(array))
                found[here] = array[wanted[here] - start]
                start += len(array)
        return torch.from_numpy(found.reshape(*rows.shape, *item)).to(self.device)

    def whole(self) -> Tensor:
        """All rows as an ordinary tensor."""
        if self.device.type == "cpu":
            return self._taken(self.rows)
        return torch.cat([self._taken(rows) for rows in self.rows.split(rows_within(self, LIMIT))])

    def split(self, size: Any, dim: int = 0) -> Any:  # type: ignore[override]
        """As of a tensor; of rows, every part is read when it is used."""
        if dim:
            return self.whole().split(size, dim)
        return tuple(Mapped(self.arrays, rows, self.device) for rows in self.rows.split(size))

    def contiguous(self, memory_format: Any = torch.contiguous_format) -> Tensor:
        """A copy in memory."""
        return self.whole().contiguous(memory_format=memory_format)

    def data_ptr(self) -> int:
        """There is none, and what asks for it would write nothing down."""
        raise BadInput("images on disk have no address in memory. Take x.whole().")

    storage = untyped_storage = data_ptr  # type: ignore[assignment]

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """A copy in memory."""
        return self.whole().numpy(force=force)

    def tolist(self) -> Any:
        """As of a tensor."""
        return self.whole().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Mapped({list(self.shape)}, {self.dtype}, {self.device})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.whole().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Mapped:
        return Mapped(self.arrays, self.rows, self.device)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Below Python's operators: what stays on disk does so, and all else is done on copies."""
        kwargs, first = kwargs or {}, args[0]
        match function:
            case torch.ops.aten.clone.default | torch.ops.aten.detach.default if not kwargs:
                return first.__deepcopy__({})
            case torch.ops.aten.cat.default if (
                args[1:] in ((), (0,)) and len({(t.dtype, t.shape[1:]) for t in first}) < 2
            ):
                return _joined(first, first[0].device)
            case torch.ops.aten._to_copy.default if (
                kwargs.get("device") and kwargs.get("dtype", first.dtype) == first.dtype
            ):
                moved = Mapped(first.arrays, first.rows, kwargs["device"])
                resident = moved.device.type != "cpu" and len(moved) <= rows_within(moved, RESIDENT)
                return moved.whole() if resident else moved
        if function._schema.is_mutable and isinstance(first, Mapped):
            raise BadInput("images on disk cannot be changed in place, but for x[rows] = pixels. Change x.whole().")
        args, kwargs = tree_map(lambda x: x.whole() if isinstance(x, Mapped) else x, (args, kwargs))
        return function(*args, **kwargs)


def _parted(index: Any) -> tuple[Any, tuple[Any, ...]]:
    """An index as one of rows and one of what lies inside them; None for the former if it cannot be parted."""
    first, *inside = index if isinstance(index, tuple) else (index,)
    if first is None or first is ... or not all(isinstance(part, int | slice) for part in inside):
        return None, index
    return first.cpu() if isinstance(first, Tensor) else first, tuple(inside)


def _joined(parts: Iterable[Tensor], device: torch.device) -> Mapped:
    """Tensors of like items behind one another, those that lie on disk without a copy."""
    arrays: list[np.ndarray] = []
    rows: list[Tensor] = []
    for part in parts:
        if not isinstance(part, Mapped):
            held = part.cpu().clone(memory_format=torch.contiguous_format)
            part = Mapped((held.numpy(),), torch.arange(len(held)))
        rows.append(part.rows + sum(map(len, arrays)))
        arrays += part.arrays
    return Mapped(tuple(arrays), torch.cat(rows), device)


def rows_within(x: Tensor, size: int) -> int:
    """How many rows of `x` weigh at most `size` bytes; one at least."""
    return max(size // max(math.prod(x.shape[1:]) * x.dtype.itemsize, 1), 1)


def array_in(file: Any, dtype: Any, shape: Iterable[int], start: int) -> np.ndarray:
    """An array that begins at byte `start` of a file, mapped; ValueError if the file ends before it does.

    A small one may be changed, of which the file learns nothing; a large one may not, since the system would have to
    promise memory for all of it.
    """
    array = np.memmap(file, dtype, "r", start, tuple(shape))
    return np.asarray(array if array.nbytes > LIMIT else np.memmap(file, dtype, "c", start, array.shape))


def tensor_of(array: np.ndarray) -> Tensor:
    """An array as a tensor that shares its memory: `Mapped`, where it may only be read."""
    return torch.from_numpy(array) if array.flags.writeable else Mapped((array,), torch.arange(len(array)))


def collected(parts: Iterable[Tensor]) -> Tensor:
    """`torch.cat` of what is made part by part; more than the limit goes into a file that nobody else sees.

    Raises:
        StoreError: there is no room for it.
    """
    parts, held, size = iter(parts), [], 0
    for part in parts:
        held.append(part)
        size += part.nbytes
        if size > LIMIT:
            break
    else:
        return torch.cat(held)
    item, rows = held[0][0].cpu().numpy(), 0
    try:
        with _scratch() as file:
            for part in chain(held, parts):
                rows += len(part)
                file.write(part.cpu().contiguous().numpy().data)
            file.flush()
            return tensor_of(array_in(file, item.dtype, (rows, *item.shape), 0))
    except OSError as error:
        raise StoreError(
            f"changed images cannot be written ({error.strerror}). Free space, or set DISTRUST_CACHE."
        ) from None


def _scratch() -> IO[bytes]:
    """A file without a name, where the decoded images are: a temporary folder may lie in memory."""
    with suppress(OSError):
        cache_directory().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache_directory())
    return tempfile.TemporaryFile()
