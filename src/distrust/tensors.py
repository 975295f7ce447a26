"""Tensors in files: weights are written as safetensors; what a stranger hands us is opened without running it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import pathlib
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .bounds import RATIO, check_bound
from .errors import BadInput, DistrustError, NotFound, UnsafeFile
from .pickles import MAGIC, asked_by, damage, entries, keras_code, oddity, protocol_of

_REBUILT = ("scalar", "_reconstruct")
_NUMPY = importlib.import_module("numpy._core.multiarray" if np.__version__ >= "2" else "numpy.core.multiarray")
PLAIN: list[Any] = [  # what checkpoints hold beside tensors, and nothing of which runs: a best accuracy, the arguments
    *((getattr(_NUMPY, name), f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name in _REBUILT),
    *(kind for name, kind in vars(np.dtypes).items() if name.endswith("DType")),
    *(np.dtype, np.ndarray, argparse.Namespace, pathlib.PosixPath),
]
STARTS = {  # how files begin that are no weights → what they are, and what to do
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file. Fetch it: git lfs pull",
    b"\x89HDF": "an HDF5 file, as Keras writes them. Convert it to PyTorch, and save its state_dict()",
    b"GGUF": "a GGUF file of quantised weights. Ask for the float weights as .safetensors",
    b"\x1f\x8b": "packed by gzip. Unpack it first: gunzip",
    b"7z\xbc\xaf\x27\x1c": "packed by 7-Zip. Unpack it, and give what is in it",
    b"Rar!\x1a": "packed by RAR. Unpack it, and give what is in it",
    b"BZh": "packed by bzip2. Unpack it first: bunzip2",
    b"\xfd7zXZ": "packed by xz. Unpack it first: unxz",
    b"\x28\xb5\x2f\xfd": "packed by Zstandard. Unpack it first: unzstd",
    b"PAR1": "a parquet table. Give its folder as --images",
    b"%PDF": "a PDF document. Give a file of weights or images",
    b"\0\0\x08": "an IDX file of numbers. Give its folder as --images",
    b"<": "a web page, not a file of weights. Download the file itself",
    b"{": "JSON, not a file of weights. Give the .safetensors or .pt file",
}
LARGE = 2**24  # bytes that are looked at without being asked for
LONGEST = 10**8  # bytes of a header of safetensors, as the format has it


def opened(path: str | Path, *, held: bool = True) -> Any:
    """What a file of tensors or arrays holds, told by its content, whatever it is called; nothing in it is run.

    Tensors of a .safetensors and of a .pt are mapped where they can be: their bytes are read when they are used.

    Args:
        path: a .safetensors, a .pt with nothing but tensors and plain data, an .npz or an .npy.
        held: all have their numbers; if not, what cannot be mapped has only names, types and shapes, if it is large.

    Raises:
        NotFound: no such file.
        UnsafeFile: opening it would import and call something; lists what.
        BadInput: it is damaged, or something else; says what.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"no file {path}. Give a .safetensors, .pt, .npz or .npy file.")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise BadInput(f"{path} is empty. Fetch it again.")
    if start.startswith(b"\x93NUMPY") or arrays_in(path) is not None:
        return _arrays(path, held)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LONGEST:
        try:
            return load_file(path)
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise BadInput(f"{path} is not a readable safetensors file ({error}). Download it again.") from None
    return _pickled(path, held)


def arrays_in(path: Path) -> dict[str, int] | None:
    """The arrays of an .npz by name, with how many bytes each takes in memory; None of anything else."""
    found = {entry.filename: entry.file_size for entry in entries(path)}
    own = found and all(name.endswith(".npy") for name in found)
    return {name.removesuffix(".npy"): size for name, size in found.items()} if own else None


def _arrays(path: Path, held: bool) -> Any:
    try:
        sizes = arrays_in(path)
        check_bound("unpacked", sum((sizes or {}).values()), path, "bytes", RATIO * path.stat().st_size)
        if sizes is None:
            return np.load(path, allow_pickle=False, mmap_mode=None if held else "c")
        with np.load(path, allow_pickle=False) as found:
            shapes = {name: _shape_in(found.zip, f"{name}.npy", size) for name, size in sizes.items()}
            return {name: found[name] if held or sizes[name] < LARGE else shape for name, shape in shapes.items()}
    except DistrustError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise UnsafeFile(
                f"{path} holds Python objects, which can run code when opened. Not loaded. Save "
                "plain arrays of numbers."
            ) from None
        raise BadInput(f"{path} is a damaged archive of arrays ({error}). Fetch or write it again.") from None


def _shape_in(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    """An array of the right type and shape, all of it one zero."""
    with archive.open(name) as part:
        old = np.lib.format.read_magic(part) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(part)
    if dtype.hasobject:
        raise ValueError("allow_pickle")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{name} says {list(shape)}, and holds {size} bytes")
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, [0] * len(shape))


def _pickled(path: Path, held: bool) -> Any:
    """What torch wrote, as far as it is nothing but tensors and plain data."""
    odd = oddity(path)
    try:
        if odd:
            raise ValueError(odd)
        mapped = _stored(path) and path.suffix != ".safetensors"  # by which torch goes, if it is told the name
        place = "cpu" if held or mapped or path.stat().st_size < LARGE else "meta"
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about pickle's protocol
            content = torch.load(path if mapped else file, map_location=place, weights_only=True, mmap=mapped)
    except Exception:  # a damaged file can fail in any way
        if asked := asked_by(path):
            plural = f"{len(asked)} globals that are not tensors" if len(asked) > 1 else "a global that is no tensor"
            raise UnsafeFile(
                f"{path}{_script(path)} needs {plural} ({_few(asked, 12)}). Not loaded. Ask for a .safetensors file, "
                "or for one saved with torch.save(model.state_dict(), …)."
            ) from None
        if odd:
            raise UnsafeFile(
                f"{path} is an odd archive: {odd}, as in files that hide from scanners. Not loaded. Download it again, "
                "or ask for a .safetensors file."
            ) from None
        if program := keras_code(path):
            raise UnsafeFile(f"{path} is {program}. Not loaded. Ask for weights that PyTorch opens.") from None
        if other := what_else(path):
            raise BadInput(f"{path} is {other}.") from None
        if (protocol := protocol_of(path)) > 2:
            raise BadInput(
                f"{path} cannot be read: it is a pickle of protocol {protocol}, and torch opens only 2 without "
                "running anything. Save it again with torch.save as it is."
            ) from None
        # torch's own message is not repeated: it advises to load the file all the same
        raise BadInput(
            f"{path} is damaged, or no checkpoint. Download it again, or save one with "
            "torch.save(model.state_dict(), …)."
        ) from None
    if (held or path.stat().st_size < LARGE) and (broken := damage(path)):
        raise BadInput(f"{path} is damaged: the checksum of {broken} is wrong. Download it again.")
    _check_sizes(content, path)
    return content


def _check_sizes(content: Any, path: Path) -> None:
    """Refuse tensors that are more than their file: one number, repeated, can be any size."""
    waiting, known, size = [content], set[int](), 0
    while waiting:
        part = waiting.pop()
        if id(part) not in known:
            known.add(id(part))
            size += part.numel() * part.element_size() if isinstance(part, Tensor) else 0
            waiting += part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    check_bound("unpacked", size, path, "bytes of tensors", RATIO * path.stat().st_size)


def _stored(path: Path) -> bool:
    """It is a zip in which nothing is packed, so that its parts can be mapped."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # as torch tells its two formats apart
            return False
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries(path))


def what_else(path: Path) -> str | None:
    """What a file is that is no checkpoint of today's PyTorch, by its content."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        return _tar(path)
    if start.startswith(b"PK"):
        return "a damaged archive of arrays. Fetch or write it again" if b".npy" in start[30:100] else _zip(path)
    if b"onnx" in start[:64].lower() or (start[:1] == b"\x08" and b"pytorch" in start[:64]):
        return "an ONNX model, which is a program. Ask for the network and its state_dict()"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model, which is a program. Ask for the network and its state_dict()"
    if start[:1] == b"\x80" and start[3:14] != MAGIC:
        return "damaged, or a pickle that torch did not write. Ask for one that torch.save wrote"
    return next((what for begin, what in STARTS.items() if start.lstrip().startswith(begin)), None)


def _tar(path: Path) -> str:
    with contextlib.suppress(tarfile.TarError, OSError, EOFError, ValueError), tarfile.open(path) as archive:
        if {"pickle", "storages"} <= {entry.name for entry in archive}:
            return "a tar archive, as torch wrote before version 0.2. Open it with an old torch, and save it again"
    return "a tar archive. Unpack it, and give what is in it"


def _zip(path: Path) -> str | None:
    names = [entry.filename for entry in entries(path)]
    if "model.weights.h5" in names:
        return "a Keras archive. Convert it to PyTorch, and save its state_dict()"
    if names and not any(name.endswith(".pkl") for name in names):
        return f"damaged, or no checkpoint: a zip archive of {len(names)} files. Unpack it, and give what is in it"
    return None


def _script(path: Path) -> str:
    """Told of an archive of TorchScript, which holds a program."""
    return ", a TorchScript archive," if any("/code/" in entry.filename for entry in entries(path)) else ""


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str = "the checkpoint") -> nn.Module:
    """Put weights into `model`, key for key; only Normalize's buffers and BatchNorm's counters may be absent.

    Raises:
        BadInput: the checkpoint is of another architecture; lists what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    missing = [k for k in needed(own) if k not in weights]
    unexpected = [k for k in weights if k not in own]
    both = [(k, weights[k].shape, own[k].shape) for k in own if k in weights]
    shapes = [f"{k} {list(given)}, not {list(wanted)}" for k, given, wanted in both if given != wanted]
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    diff = "; ".join(f"{len(rows)} {what}: {_few(rows)}" for what, rows in parts.items() if rows)
    if diff:
        name = getattr(model, "spec", {}).get("name", type(model).__name__)
        raise BadInput(f"{source} is not a {name}: {diff}. Name the right one with --model.")
    model.load_state_dict({**own, **weights})
    return model


def needed(own: Iterable[str]) -> list[str]:
    """Of the names in a network's state dict, those without which a file is not its own."""
    return [name for name in own if not name.startswith("normalize.") and "num_batches_tracked" not in name]


def _few(rows: list[str], most: int = 5) -> str:
    return ", ".join(rows[:most]) + (f", … ({len(rows) - most} more)" if len(rows) > most else "")


def model_bytes(model: nn.Module, record: Mapping[str, Any]) -> bytes:
    """A model as a safetensors file; its `spec` and `record` go into the metadata, so it can be rebuilt."""
    return state_bytes(model.state_dict(), {"spec": getattr(model, "spec", None), **record})


def state_bytes(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """A state dict as a safetensors file, with facts in its metadata."""
    tensors, known = {}, set[int]()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = (
            tensor.clone() if place in known else tensor
        )  # tied weights: the format has no two names for one
        known.add(place)
    return save(tensors, {"distrust": json.dumps(facts)})


Word = Annotated[str, Field(pattern=r"^\w[\w.+-]{0,63}$")]  # of a method: it goes into names of files
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,400}$")]


class _Spec(BaseModel, extra="forbid", strict=True):
    """A network, as `model(**spec)` takes it."""

    name: Name
    classes: Annotated[int, Field(ge=1, le=10**6)] = 1
    channels: Annotated[int, Field(ge=1, le=10**4)] = 3
    size: Annotated[int, Field(ge=1, le=10**5)] | Annotated[list[int], Field(min_length=2, max_length=2)] = 32
    head: bool = True
    normalize: Annotated[list[list[float]], Field(min_length=2, max_length=2)] | None = None


class _Head(BaseModel, extra="allow", strict=True):
    """A head, as `heads.make(**spec)` takes it."""

    kind: str


class _Record(BaseModel, extra="allow", strict=True):
    """What metadata must look like to be believed."""

    spec: _Spec | _Head | None = None
    taint: Annotated[list[Word], Field(max_length=20)] = []
    set: Name = ""
    classes: list[Name] | None = None
    training: dict[str, Any] | None = None
    off_range: bool = False


def read_record(path: str | Path) -> dict[str, Any]:
    """What Distrust wrote into a safetensors file beside the weights; {} for a stranger's, and what is none of ours."""
    path = Path(path)
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get("distrust", "{}"))
        _Record.model_validate(record)
        return dict(record)
    except (SafetensorError, ValueError, RecursionError, OSError):  # no such file, no JSON, or not of this shape
        return {}
