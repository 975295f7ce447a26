"""Which layers does a model have, and where do its groups of layers end?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import BadInput
from .modes import called, probe
from .normalize import Normalize
from .taps import INPUT, locate

WORDS = ("auto", "groups", "pre-relu", "stem+groups", "embedding")
RELU = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU)


class Layer(NamedTuple):
    """One row of `distrust layers`."""

    path: str
    type: str
    shape: tuple[int, ...] | None  # of the output without the batch; None if it did not run or is no tensor
    parameters: int  # children's included
    group_end: bool


def group_ends(model: nn.Module, shape: Sequence[int] | None = None) -> dict[str, tuple[int, int, int]]:
    """The last output at each image size inside the model: path → shape (C,H,W), in order of appearance.

    One rule for every model. Two black images go through; modules that return [B,C,H,W] with more than one
    pixel count, except the model itself and its normalisation. A size's end is the container (a module with
    children) nearest to the root that returns it, the last one to finish among equals; or, where no container
    returns this size, the last leaf. If at least two sizes have a container, the model is made of blocks, and
    sizes that only leaves have (a 224-pixel network's stem and its pooling) are no groups.

    So WRN gives block1, block2, block3; ResNet layer1, layer2, …; a flat chain of layers the last one before
    each halving; ConvNet-3 `features.2`, `features.6`, `features.10` and `features`.

    Args:
        model: any module that takes images.
        shape: (C,H,W) of the images (default: what the model was built for, else (3, 32, 32)).

    Raises:
        BadInput: the model cannot take such images.
    """
    return _ends(model, _shapes(model, shape))


def layers(model: nn.Module, shape: Sequence[int] | None = None) -> list[Layer]:
    """All modules of `model` in order of definition, with output shapes; arguments as for `group_ends`."""
    shapes = _shapes(model, shape)
    ends = _ends(model, shapes)
    rows = []
    for path, module in model.named_modules():
        if path:
            parameters = sum(p.numel() for p in module.parameters())
            rows.append(Layer(path, type(module).__name__, shapes.get(path), parameters, path in ends))
    return rows


def resolve(model: nn.Module, layers: str | Sequence[str], shape: Sequence[int] | None = None) -> list[str]:
    """Turn a choice of layers into module paths.

    Args:
        model: any module that takes images.
        layers: paths, or a word: "groups" (or "auto") for the group ends; "pre-relu" for the same places before
            their ReLU, where Overhaul and AB listen; "stem+groups" for what enters the first group, then the
            ends; "embedding" for what enters the last linear layer.
        shape: as for `group_ends`.

    Raises:
        NotFound: no module has this path.
        BadInput: a word, and the model has no such place.
    """
    if layers not in WORDS:
        return list(locate(model, layers))
    if layers == "embedding":
        return [_last_linear(model, shape).path + INPUT]
    ends = list(group_ends(model, shape))
    if not ends:
        raise BadInput(
            f"{called(model)} has no layer whose output is an image, so layers={layers} finds none. "
            "Name the layers; `distrust layers` shows their paths."
        )
    if layers == "stem+groups":
        return [ends[0] + INPUT, *ends]
    return _before_relu(model, ends, shape) if layers == "pre-relu" else ends


def last_linear(model: nn.Module, shape: Sequence[int] | None = None) -> nn.Module:
    """The linear layer that runs last: a classifier's own; arguments and errors as for `resolve`."""
    return _last_linear(model, shape).module


def norm_at(model: nn.Module, path: str, shape: Sequence[int] | None = None) -> nn.BatchNorm2d | None:
    """The BatchNorm whose statistics describe the feature at `path`: itself, or the last one before it.

    Args:
        model: any module that takes images.
        path: a module path, or PATH:input.
        shape: as for `group_ends`.

    Returns:
        None where no BatchNorm with as many channels ran before.
    """
    calls = runs_of(model, shape)
    at = max((i for i, call in enumerate(calls) if call.path == path.removesuffix(INPUT)), default=None)
    if at is None:
        return None
    feature = calls[at].inputs if path.endswith(INPUT) else calls[at].output
    for call in reversed(calls[: at + 1]):
        if isinstance(call.module, nn.BatchNorm2d) and call.module.num_features == feature.shape[1]:
            return call.module
    return None


def _last_linear(model: nn.Module, shape: Sequence[int] | None) -> Run:
    linear = [call for call in runs_of(model, shape) if isinstance(call.module, nn.Linear)]
    if not linear:
        raise BadInput(f"{called(model)} has no linear layer, so layers=embedding finds none. Name a layer.")
    return linear[-1]


def _before_relu(model: nn.Module, ends: list[str], shape: Sequence[int] | None) -> list[str]:
    """Each group end before its ReLU, found by which module made, or took, the very same tensor.

    Where a ReLU made the group end: what went into it. Where a BatchNorm takes the group end (pre-activation
    networks): what comes out of it. Where neither does, the group end itself.
    """
    calls = runs_of(model, shape)
    places = []
    for end in ends:
        feature = [call.output for call in calls if call.path == end][-1]
        made = [call.path + INPUT for call in calls if isinstance(call.module, RELU) and call.output is feature]
        norms = (nn.BatchNorm2d, nn.GroupNorm)
        taken = [call.path for call in calls if isinstance(call.module, norms) and call.inputs is feature]
        places.append(made[-1] if made else taken[0] if taken else end)
    return places


def _ends(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int, int]]:
    modules = dict(model.named_modules())
    by_size: dict[tuple[int, ...], list[str]] = {}  # paths in the order they finished
    for path, shape in shapes.items():
        if len(shape) == 3 and shape[1:] > (1, 1) and not isinstance(modules[path], Normalize):
            by_size.setdefault(shape[1:], []).append(path)
    containers = {size: [path for path in paths if list(modules[path].children())] for size, paths in by_size.items()}
    blocks = sum(map(bool, containers.values())) >= 2
    ends = {}
    for size, paths in by_size.items():
        if containers[size]:
            end = min(reversed(containers[size]), key=lambda path: path.count("."))
        elif blocks:
            continue
        else:
            end = paths[-1]
        ends[end] = shapes[end]
    return ends  # type: ignore[return-value]


def _shapes(model: nn.Module, shape: Sequence[int] | None) -> dict[str, tuple[int, ...]]:
    """Path → output shape without the batch, in the order in which modules finish (for the last time)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for call in runs_of(model, shape):
        shapes.pop(call.path, None)
        if call.output is not None:
            shapes[call.path] = tuple(call.output.shape[1:])
    return shapes


class Run(NamedTuple):
    """One run of one module; tensors are kept, so that `is` tells who made what."""

    path: str
    module: nn.Module
    inputs: Any
    output: Any  # None where it is no tensor


def runs_of(model: nn.Module, shape: Sequence[int] | None) -> list[Run]:
    """Every module's every run on two black images, in the order in which they finish."""
    calls: list[Run] = []

    def note(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        calls.append(Run(path, module, inputs[0] if inputs else None, output if isinstance(output, Tensor) else None))

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.enter_context(module.register_forward_hook(partial(note, path)))
        probe(model, shape)
    return calls
