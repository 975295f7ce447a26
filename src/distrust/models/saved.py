"""One model, one file: safetensors that know how to rebuild the network they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..door import fitted, weights_in
from ..errors import BadInput
from ..files import write_file
from ..tensors import model_bytes, read_record
from .registry import model as make_model


def save(model: nn.Module, path: str | Path) -> Path:
    """Write a model as one safetensors file that knows how to rebuild it; `load` reads it.

    Raises:
        StoreError: it cannot be written.
    """
    path = Path(path)
    write_file(path, model_bytes(model, {"taint": []}))
    return path


def load(path: str | Path, *, model: str | None = None, key: str | None = None, **shape: Any) -> nn.Module:
    """Read a model: a file that `save` or a command wrote, or any checkpoint whose `model` is named.

    Args:
        path: a .safetensors or .pt file; it is opened without running anything.
        model: name or `file.py:factory`, for a file that does not know its own.
        key: which of the file's sets of weights, where it holds several.
        **shape: classes, channels and size of that model.

    Raises:
        NotFound, UnsafeFile, BadInput: as `distrust measure` says them.
    """
    spec = {"name": model, **shape} if model else spec_in(path, "model='{}', classes=10")
    network = make_model(**spec)
    fitted(network, weights_in(path), path, key=key)
    return network.eval()


def spec_in(path: str | Path, named: str = "--model {}") -> dict[str, Any]:
    """Which model a file that Distrust wrote is of.

    Args:
        path: the file.
        named: how a caller names one, for the error.

    Raises:
        BadInput: it does not say, or names a Python file: a file that somebody sends must not choose code to run.
    """
    spec = read_record(path).get("spec")
    if not spec or "name" not in spec:
        ours, own = named.format("wrn16-1"), named.format("my.py:factory")
        raise BadInput(f"{path} does not say which model it is. Type {ours}, or {own}.")
    if ".py:" in (name := spec["name"]):
        raise BadInput(f"{path} is a {name}, a Python file that would be run. Type {named.format(name)}.")
    return spec
