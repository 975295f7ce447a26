"""One suite per kind, run on every method of the registry: a new file is tested the day it lands."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from distrust.errors import BadInput
from distrust.registry import SUPPLIED, Method, registry

PRODUCTS = {  # name in a signature → fixture
    "train": "tiny", "transfer": "tiny", "clean": "tiny", "trained_on": "tiny", "raw": "tiny",
    "model": "net", "teacher": "net", "encoder": "encoder", "references": "references", "synthetic": "small",
}  # fmt: skip
SUSPECTS = {"classifier": "net", "any": "net", "encoder": "encoder", "synthetic": "small", "transfer": "tiny"}

LONG = 8  # a default above counts steps, images, rounds: work, of which a test wants two
SMALL = {
    "network": "convnet2-w4", "size": 3, "batch_size": 32,
    "isolate": 0.1,  # of 80 images
    "success": 0.1,  # of a search: or two steps never succeed, and every score is the same
    "threshold": 0.999,  # of masks: or two steps never reach it, and nothing is pruned
}  # fmt: skip


def every(kind: str, where: Callable[[Any], bool] = lambda mark: True) -> pytest.MarkDecorator:
    """Parametrise a test over all methods of a kind, or over those whose mark is so."""
    methods = {name: method for name, method in registry.kind(kind).items() if where(method.mark)}
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
    """Options that make a method fast and fit on images of 8×8, read off its signature."""
    little = {name: _little(method, name, p.default) for name, p in method.options.items()}
    return {name: value for name, value in little.items() if value != method.options[name].default}


def _little(method: Method, name: str, default: Any) -> Any:
    if name.endswith("epochs"):
        return 1
    if name in SMALL and default is not None:
        return _taken(method, name, SMALL[name], default)
    if name == "trigger":
        return re.sub(r":\d+$", ":3", default)
    if type(default) is int and default > LONG:
        return _taken(method, name, 2, default)
    return default


def _taken(method: Method, name: str, value: Any, default: Any) -> Any:
    try:
        return method.check({name: value})[name]
    except BadInput:
        return default


def fields(images: Any) -> dict[str, Any]:
    """A copy of what a method must leave alone in a set of images."""
    return {"x": images.x.clone(), "y": images.y.clone(), "index": images.index, "taint": images.taint}


def state(model: nn.Module) -> dict[str, Any]:
    """A copy of all that a method must leave alone in a model: weights, modes, what trains, hooks."""
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "trains": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is None for p in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


def traces(product: Any) -> dict[str, Any]:
    """The one or the other."""
    return state(product) if isinstance(product, nn.Module) else fields(product)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and plain values are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    return a == b
