"""Outputs: which part of what a stranger's network returns is the logits."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NotFound
from .modes import eval_mode

DEEPEST = 64  # parts that are looked at: tuples in tuples, but no cache of a language model


def logits(module: nn.Module, inputs: Any, output: Any, *, classes: int | None, name: str | None = None) -> Any:
    """A forward hook that makes of what a network returns its logits [B,K]; None where it stays as it is.

    Args:
        module: the network.
        inputs: what it was given; the first is the images.
        output: a tensor, or a tuple, list, mapping or object that holds it, perhaps further down.
        classes: K; None of an encoder, whose features may have any width.
        name: which part it is: a key, an attribute or an index, one after the other behind dots; None: the first tensor
            that is [B,K], outer ones first.

    Raises:
        NotFound: no part of this name.
    """
    if not isinstance(output, Tensor):
        if name is None:
            found = (part for part in _inside(output) if isinstance(part, Tensor) and _fits(part, classes))
            return next(map(_flat, found), None)
        for word in name.split("."):
            parts = _parts(output)
            if word not in parts:
                raise NotFound.among(f"output of {type(module).__name__}", word, parts)
            output = parts[word]
        return _flat(output) if isinstance(output, Tensor) else output
    return None if (flat := _flat(output)) is output else flat


def candidates(module: nn.Module, images: Tensor, classes: int) -> list[str]:
    """The names of all parts that are [B,K] of what a network returns for images, as `logits` takes them."""
    with eval_mode(module), torch.no_grad():
        output = module.forward(images)  # past the hook
    waiting, found = deque([("", output)]), list[str]()
    while waiting and len(found) < DEEPEST:
        path, part = waiting.popleft()
        if isinstance(part, Tensor) and path and _fits(part, classes):
            found.append(path.removeprefix("."))
        waiting.extend((f"{path}.{name}", inner) for name, inner in _parts(part).items())
    return found


def _fits(part: Tensor, classes: int | None) -> bool:
    return classes is not None and _flat(part).shape[1:] == (classes,)


def _flat(part: Tensor) -> Tensor:
    """[B,K] of [B,K,1,1], as a network gives that ends in a convolution or in pooling."""
    return part.flatten(1) if part.ndim == 4 and part.shape[2:] == (1, 1) else part


def _inside(output: Any) -> Iterator[Any]:
    """What it holds, and what that holds in turn."""
    waiting, seen = deque([output]), 0
    while waiting and seen < DEEPEST:
        for part in _parts(waiting.popleft()).values():
            seen += 1
            yield part
            waiting.append(part)


def _parts(output: Any) -> dict[str, Any]:
    """The parts of a mapping, a sequence or an object, by name; a named tuple's go by both of their names."""
    if isinstance(output, Tensor):
        return {}
    if isinstance(output, Mapping):
        return {str(key): part for key, part in output.items()}
    if isinstance(output, list | tuple):
        by_index = {str(i): part for i, part in enumerate(output)}
        return by_index | dict(zip(getattr(output, "_fields", ()), output, strict=False))
    if dataclasses.is_dataclass(output):  # also with slots
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return dict(getattr(output, "__dict__", {}))
