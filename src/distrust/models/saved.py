"""One model, one file: safetensors that know how to rebuild the network they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..errors import BadInput
from ..files import load_weights, model_bytes, open_weights, read_record, write_file
from .registry import model as make_model


def save(model: nn.Module, path: str | Path) -> Path:
    """Write a model as one safetensors file that knows how to rebuild it; `load` reads it.

    Raises:
        StoreError: it cannot be written.
    """
    path = Path(path)
    write_file(path, model_bytes(model, {"taint": []}))
    return path


def load(path: str | Path, *, model: str | None = None, **shape: Any) -> nn.Module:
    """Read a model: a file that `save` or a command wrote, or any checkpoint whose `model` is named.

    Args:
        path: a .safetensors or .pt file; it is opened without running anything.
        model: name or `file.py:factory`, for a file that does not know its own.
        **shape: classes, channels and size of that model.

    Raises:
        NotFound, UnsafeFile, BadInput: as `distrust measure` says them.
    """
    spec = {"name": model, **shape} if model else read_record(path).get("spec")
    if not spec or (".py:" in spec["name"] and not model):
        raise BadInput(f"{path} does not say which model it is. Type model='wrn16-1', classes=10.")
    return load_weights(make_model(**spec), open_weights(path), str(path)).eval()
