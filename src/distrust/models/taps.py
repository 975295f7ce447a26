"""Reading the inner features of any model by module path, through hooks; nobody has to edit a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import BadInput, NotFound
from .modes import called


class Taps(NamedTuple):
    """What a model answered, and what it thought on the way."""

    logits: Tensor  # [B,K]
    features: dict[str, Tensor]  # path → output of that module (or PATH:input → its input), in the order asked


INPUT = ":input"  # behind a path: what goes into the module


@contextmanager
def taps(model: nn.Module, paths: Sequence[str]) -> Iterator[Callable[[Tensor], Taps]]:
    """Listen to the modules at `paths`.

    `with taps(model, ["block1", "block2"]) as read: logits, features = read(x)`

    `PATH:input` listens to what goes into a module: `layer1.2.relu:input` is a block's sum before its ReLU.
    Gradients flow through the features. Modes are left alone, and the hooks are gone afterwards, whatever
    happens. A module that runs more than once in a forward pass gives its last run.

    A feature that the model overwrites in place would silently be another layer's: a BatchNorm output under
    an in-place ReLU reads as non-negative. So features are copied if any module of the model says
    `inplace=True`; without one, a feature that was overwritten all the same is refused.

    Args:
        model: any module that takes images and returns a tensor.
        paths: dotted module paths, as `distrust layers` lists them; `:input` behind one listens before it.

    Raises:
        NotFound: no module has this path.
        BadInput: a module did not run, returned no tensor, or its output was overwritten (all on reading).
    """
    copy = any(getattr(module, "inplace", False) for module in model.modules())
    heard: dict[str, tuple[Tensor, int]] = {}  # path → output, and its version when the module returned

    def hear(path: str, module: nn.Module, inputs: Any, output: Any = None) -> None:
        if path.endswith(INPUT):
            output = inputs[0] if inputs else None
        if not isinstance(output, Tensor):
            raise BadInput(
                f"layer {path!r} of {called(model)} returns a {type(output).__name__}; only tensors can "
                "be read. Name a layer inside it, or one after it."
            )
        # Inference tensors have no version to compare.
        heard[path] = (output.clone(), 0) if copy or output.is_inference() else (output, output._version)

    def read(x: Tensor) -> Taps:
        heard.clear()
        try:
            logits = model(x)
            return Taps(logits, {path: feature(path) for path in modules})
        finally:
            heard.clear()

    def feature(path: str) -> Tensor:
        if path not in heard:
            raise BadInput(
                f"layer {path!r} of {called(model)} did not run in the forward pass. Name a layer that does; "
                "`distrust layers` shows an output shape for those."
            )
        output, version = heard[path]
        if not copy and not output.is_inference() and output._version != version:
            raise BadInput(
                f"the output of layer {path!r} of {called(model)} was overwritten in place after it ran. Use "
                "F.relu(x) for F.relu(x, inplace=True), x = x + y for x += y, or name the layer around it."
            )
        return output

    modules = locate(model, paths)
    with ExitStack() as hooks:
        for path, module in modules.items():
            listen = module.register_forward_pre_hook if path.endswith(INPUT) else module.register_forward_hook
            hooks.enter_context(listen(partial(hear, path)))
        yield read


def locate(model: nn.Module, paths: str | Sequence[str]) -> dict[str, nn.Module]:
    """Path → module, in the order asked; NotFound with near matches if a path is no module of `model`."""
    known = {path: module for path, module in model.named_modules(remove_duplicate=False) if path}
    paths = [paths] if isinstance(paths, str) else paths
    for path in paths:
        if path.removesuffix(INPUT) not in known:
            raise NotFound.among(f"layer of {called(model)}", path, known)
    return {path: known[path.removesuffix(INPUT)] for path in paths}
