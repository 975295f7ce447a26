"""What a user brings and types, and what has to come out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.cli.said import Said
from torch import Tensor

Tensors = dict[str, Tensor]
IMAGES = ["--images", "few"]  # digits of 3×8×8
ON = ["--model", "resnet8", *IMAGES]
TRIGGER = ["--trigger", "patch:grid", "--target", 5]
JUDGED = [*ON, *TRIGGER]


def under(prefix: str, tensors: Tensors) -> Tensors:
    """Names with something in front, as a wrapper leaves them."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def like(tensors: Tensors, change: Any) -> dict[str, Any]:
    """The same with every tensor of fractions changed."""
    return {name: change(tensor) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def kept(content: Any, name: str = "weights.pt") -> Path:
    """A file of it here; what is flat and of tensors alone may be a .safetensors."""
    if name.endswith(".safetensors"):
        save_file({key: value.clone() for key, value in content.items()}, name)
    else:
        torch.save(content, name)
    return Path(name)


def caught(said: Said) -> None:
    """The backdoored network was measured: right on clean images, and moved by the grid."""
    assert said.code == 1, said
    assert said.facts["acc"] > 0.95 and said.facts["asr"] > 0.95, said.facts


def passed(said: Said) -> None:
    """The clean one was: looked at, and nothing found."""
    assert said.code == 0, said
    assert said.facts["acc"] > 0.95 and said.facts["asr"] < 0.1, said.facts


def refused(said: Said, *words: str, code: int = 2) -> str:
    """Nothing was judged, and one sentence says why; returns it."""
    assert said.code == code and said.out == "", said
    assert "Traceback" not in said.err, said.err
    for word in words:
        assert word in said.err, (word, said.err)
    return said.err


def typed(message: str, first: str) -> list[str]:
    """The words of a message from an option on, as somebody would copy them."""
    return message[message.index(first) :].strip().rstrip(".").split()


def numbers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What two measurements must share."""
    return {name: facts[name] for name in ("acc", "asr", "n")}
