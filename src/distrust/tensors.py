"""Tensors in files: weights are written as safetensors; what a stranger hands us is opened without running it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import pathlib
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .errors import BadInput, NotFound, UnsafeFile

HARMLESS = re.compile(  # what torch.load(weights_only=True) takes, as far as checkpoints have it
    r"torch\.(\w+Storage|storage\.\w+|_utils\._rebuild\w+|Size|device|Tensor|bool|[a-z]+\d+\w*|nn\.parameter\.Parameter)"
    r"|collections\.(OrderedDict|Counter|defaultdict)|_codecs\.encode|builtins\.(bytearray|set|complex)"
    r"|numpy(\._?core\.multiarray\.(scalar|_reconstruct)|\.dtype|\.ndarray|\.dtypes\.\w+)|argparse\.Namespace|pathlib\.PosixPath"
)
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
    b"<": "a web page, not a file of weights. Download the file itself",
    b'{"': "JSON, not a file of weights. Give the .safetensors or .pt file",
}
NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")


def open_weights(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from a `.pt` that holds nothing but tensors and plain data.

    Args:
        path: the file.
        key: where in a nested checkpoint the state dict lies, e.g. "state_dict" or "ema.model" (default: found
            by itself under the usual names).

    Raises:
        NotFound: no such file, or no such key in it.
        UnsafeFile: opening it would import and call something; lists what.
        BadInput: it is damaged, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"no weights file {path}. Give a .safetensors or .pt file.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadInput(f"{path} is not a readable safetensors file ({error}). Download it again.") from None
    return _state_dict(open_plain(path), path, key)


def open_plain(path: Path) -> Any:
    """Read a `.pt` that holds nothing but tensors and plain data.

    Raises:
        UnsafeFile: opening it would import and call something; lists what.
        BadInput: it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle's protocol
            with torch.serialization.safe_globals(PLAIN):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file can fail in any way
        asked = _globals_of(path)
        if asked:
            plural = f"{len(asked)} globals that are not tensors" if len(asked) > 1 else "a global that is no tensor"
            raise UnsafeFile(
                f"{path}{_script(path)} needs {plural} ({', '.join(asked)}). Not loaded. Ask for a .safetensors file, "
                "or for one saved with torch.save(model.state_dict(), …)."
            ) from None
        if other := _other(path):
            raise BadInput(f"{path} is {other}.") from None
        # torch's own message is not repeated: it advises to load the file all the same
        raise BadInput(
            f"{path} is damaged, or no checkpoint. Download it again, or save one with "
            "torch.save(model.state_dict(), …)."
        ) from None


def _state_dict(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    if key:
        for part in key.split("."):
            known = content if isinstance(content, Mapping) else {}
            if part not in known:
                raise NotFound.among(f"key in {path.name}", part, map(str, known))
            content = known[part]
    while isinstance(content, Mapping) and not any(isinstance(v, Tensor) for v in content.values()):
        inner = next((content[name] for name in NESTS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    weights = isinstance(content, Mapping) and content
    if not weights or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise BadInput(f"{path} holds no state dict; it has: {found}. Say where it is: --key NAME.")
    parallel = all(name.startswith("module.") for name in weights)  # saved from DataParallel
    return {name.removeprefix("module.") if parallel else name: v for name, v in weights.items()}


def _other(path: Path) -> str | None:
    """What a file is that is no checkpoint of today's PyTorch, by its content."""
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if start[257:262] == b"ustar":
        return "a tar archive, as torch wrote before version 0.2. Open it with an old torch, and save it again"
    if b"onnx" in start[:64].lower() or (start[:1] == b"\x08" and b"pytorch" in start[:64]):
        return "an ONNX model, which is a program. Ask for the network and its state_dict()"
    return next((what for begin, what in STARTS.items() if start.startswith(begin)), None)


def _script(path: Path) -> str:
    """Told of an archive of TorchScript, which holds a program."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        if any("/code/" in name for name in archive.namelist()):
            return ", a TorchScript archive,"
    return ""


def _globals_of(path: Path) -> list[str]:
    """Names that unpickling would import, read from the opcodes without running them; [] if it is no pickle."""
    names: set[str] = set()
    with contextlib.suppress(Exception):  # a damaged file can fail in any way; what was found so far counts
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        _collect_globals(archive.read(name), names)
        else:
            _collect_globals(path.read_bytes(), names)
    safe = torch.serialization.get_safe_globals()  # what the user has allowed
    allowed = {f[1] if isinstance(f, tuple) else f"{f.__module__}.{f.__qualname__}" for f in safe}
    return sorted(n for n in names if n not in allowed and not HARMLESS.fullmatch(n))


def _collect_globals(data: bytes, names: set[str]) -> None:
    """Add the globals of every pickle in `data`; files of before torch 1.6 hold several."""
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        words: list[str] = []
        memo: dict[Any, Any] = {}
        last: Any = None
        for code, argument, _ in pickletools.genops(stream):
            if code.name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                names.add(".".join(words[-2:]))
            elif code.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else argument] = last
                continue
            last = memo.get(argument) if code.name in ("GET", "BINGET", "LONG_BINGET") else argument
            if isinstance(last, str):
                words.append(last)


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


def read_record(path: str | Path) -> dict[str, Any]:
    """What Distrust wrote into a safetensors file beside the weights; {} for a stranger's file."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("distrust", "{}"))
    except (SafetensorError, json.JSONDecodeError):
        return {}


def open_picture(path: str | Path) -> Tensor:
    """A picture file as uint8 [3,H,W].

    Raises:
        NotFound: no such file.
        BadInput: it is not a readable picture.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"no picture {path}. Give a PNG or JPEG file.")
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of them Pillow's
        raise BadInput(f"{path} is not a readable picture ({error}). Give a PNG or JPEG file.") from None
