"""Running a model for a look without leaving a trace: modes, grad mode and random state stay as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, DistrustError
from ..seeds import rng, seeded


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluate inside; afterwards every submodule gets back its own mode, also one that was frozen alone."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen_mode(model: nn.Module) -> Iterator[nn.Module]:
    """As `eval_mode`, and inside no parameter asks for a gradient; afterwards those do that did."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with eval_mode(model):
            yield model.requires_grad_(False)
    finally:
        for parameter, was in wanted:
            parameter.requires_grad_(was)


def frozen(model: nn.Module) -> nn.Module:
    """A copy to look through: eval mode, no gradients of its parameters."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def refuse_batch_norm(model: nn.Module) -> nn.Module:
    """The model itself, unless it has BatchNorm, whose statistics would tie the images of a batch together.

    Raises:
        BadInput: it has.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise BadInput(
            f"network {called(model)} has BatchNorm, which condensation cannot match through. Type convnet3."
        )
    return model


def called(model: nn.Module) -> str:
    """What to call `model` in a message: the name it was built by, else its type."""
    return spec_of(model).get("name", type(model).__name__)


def probe(model: nn.Module, shape: Sequence[int] | None = None) -> Tensor:
    """Show the model two black images and return what it answers [2, …].

    Args:
        model: any module that takes images.
        shape: (C,H,W) of the images (default: what the model was built for, else (3, 32, 32)).

    Raises:
        BadInput: the model cannot take such images.
    """
    spec = spec_of(model)
    built = (spec.get("channels", 3), *pair(spec.get("size", 32)))
    shape = built if shape is None else shape
    state = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    # Two images: norms over the batch refuse a single value per channel.
    images = next(state, torch.zeros(())).new_zeros(2, *shape)
    made, then = "", "Build it for them with model(name, images), or give the shape it takes."
    if "size" in spec:
        made = f", built for {'×'.join(map(str, built))} images,"
        if ".py:" in called(model) and tuple(shape) == built:  # the fault is not in the shape
            then = "Mend its forward, which gets the images alone, in eval mode; give other arguments defaults."
    what = f"{called(model)}{made} cannot take {'×'.join(map(str, shape))} images"
    with told(what, then), eval_mode(model), torch.no_grad(), seeded(rng(0, "probe")):
        return model(images)


def seen_in_training(model: nn.Module, shape: Sequence[int]) -> Any:
    """What a copy of the model returns in train mode for two black images (C,H,W), after a look at its gradient.

    Raises:
        BadInput: it cannot be copied, has no parameter that asks for a gradient, or fails.
    """
    with told(f"{called(model)} cannot be trained", "Mend it, or only measure it."):
        copied = copy.deepcopy(model).train()
        first = next((p for p in copied.parameters() if p.requires_grad), None)
        if first is None:
            raise ValueError("none of its parameters asks for a gradient")
        with torch.enable_grad(), seeded(rng(0, "probe")):
            found = copied(first.new_zeros(2, *shape))
            if isinstance(found, Tensor):
                found.float().sum().backward()
    return found


@contextmanager
def told(what: str, then: str) -> Iterator[None]:
    """Tell in one sentence what a stranger's network raises inside, which may be anything.

    Raises:
        BadInput: "`what`: why. `then`".
    """
    try:
        yield
    except (torch.OutOfMemoryError, DistrustError):
        raise
    except (Exception, SystemExit) as error:
        why = next(iter(str(error).splitlines()), "")
        if not why or not isinstance(error, RuntimeError | ValueError | AssertionError):
            why = f"{type(error).__name__}: {why}"
        raise BadInput(f"{what}: {why}. {then}") from error


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of `size`, which may be one side of a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def spec_of(model: nn.Module) -> dict[str, Any]:
    """The options by which `model` was built, its name among them; empty for a stranger's."""
    spec = getattr(model, "spec", None)
    return spec if isinstance(spec, dict) else {}
