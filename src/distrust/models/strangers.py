"""Models from elsewhere: a user's Python file, timm, torchvision, each imported only when asked for."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from torch import nn

from ..errors import BadInput, NotFound


def from_file(file: str, factory: str, *, classes: int, channels: int, size: int | list[int]) -> nn.Module:
    """Run the user's `file` and call `factory` in it, as `import` would: the file's code is executed.

    The factory (a function, or the model's class) is given those of `classes` (or `num_classes`), `channels`
    and `size` that it names as arguments. The file may import from its own folder.

    Raises:
        NotFound: no such file, or no such name in it.
        BadInput: the file or the factory fails, needs another argument, or makes something that is no module.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise NotFound.among("file", file, map(str, path.parent.glob("*.py")))
    asked = f"{file}:{factory}"
    module = _run(path)
    make = getattr(module, factory, None)
    if not callable(make):
        things = vars(module).items()
        own = [name for name, thing in things if getattr(thing, "__module__", "") == module.__name__]
        raise NotFound.among(f"factory in {file}", factory, own)
    offered = {"classes": classes, "num_classes": classes, "channels": channels, "size": size}
    signature = inspect.signature(make)
    given = {name: value for name, value in offered.items() if name in signature.parameters}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise BadInput(
            f"{asked}: {error}. A factory is called with {', '.join(offered)} at most, by name; "
            "give its other arguments defaults."
        ) from error
    try:
        made = make(**given)
    except Exception as error:
        raise _failed(asked, error) from error
    if not isinstance(made, nn.Module):
        raise BadInput(f"{asked} made a {type(made).__name__}, no torch.nn.Module. Return the model itself.")
    return made


def from_timm(name: str, *, classes: int, channels: int) -> nn.Module:
    """Build timm's `name` without its weights."""
    timm = _library("timm", name)
    if not timm.is_model(name):
        raise NotFound.among("timm model", name, timm.list_models())
    return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)


def from_torchvision(name: str, *, classes: int) -> nn.Module:
    """Build torchvision's `name` without its weights; it takes three channels."""
    models = _library("torchvision", name).models
    if name not in models.list_models(module=models):
        raise NotFound.among("torchvision model", name, models.list_models(module=models))
    return models.get_model(name, weights=None, num_classes=classes)


def _library(library: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise BadInput(
            f"{library}:{name} needs {library}, which is not installed. Type: pip install {library}"
        ) from error


def _run(path: Path) -> ModuleType:
    """Execute `path` as a module of its own name; always anew, so that an edited file counts."""
    path = path.resolve()
    module = ModuleType(f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(path.parent))
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except Exception as error:
        del sys.modules[module.__name__]
        raise _failed(path, error) from error
    finally:
        with suppress(ValueError):
            sys.path.remove(str(path.parent))
    return module


def _failed(what: object, error: Exception) -> BadInput:
    return BadInput(f"{what} failed: {type(error).__name__}: {error}. Mend it, then ask again.")
