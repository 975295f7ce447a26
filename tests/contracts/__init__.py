"""One suite per kind, run on every method of the registry: a new file is tested the day it lands."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from distrust.registry import SUPPLIED, Method, registry


def every(kind: str) -> pytest.MarkDecorator:
    """Parametrise a test over all methods of a kind."""
    methods = registry.kind(kind)
    return pytest.mark.parametrize("method", methods.values(), ids=methods)


def flat(method: Method | Callable[..., Any]) -> Callable[..., Any]:
    """A method that takes the fields of its `training` by name, as selectors do."""
    if not isinstance(method, Method):
        method = registry.get(method.method.kind, method.__name__)

    def call(*inputs: Any, **options: Any) -> Any:
        supplied = {name: options.pop(name) for name in SUPPLIED & options.keys()}
        return method.made(options)(*inputs, **supplied)

    return call


def quick(method: Method) -> dict[str, Any]:
    """Options that make a method fast: one epoch wherever it counts epochs."""
    return {name: 1 for name in method.options if name.endswith("epochs")}


def state(model: nn.Module) -> dict[str, Any]:
    """A copy of all that a method must leave alone in a model: weights, modes, what trains, hooks."""
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "trains": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is None for p in model.parameters()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
    }


def same_bits(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and plain values are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    return a == b
