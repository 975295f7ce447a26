"""Models from elsewhere: a user's Python file, timm, torchvision, each imported only when asked for."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..allowed import FACTORY, check_allowed
from ..errors import BadInput, NotFound

STRANGERS = {
    "FILE.py:FACTORY": "a torch.nn.Module from your own file, which is executed: models/mine.py:make",
    "timm:NAME": "a model of timm, without its weights",
    "torchvision:NAME": "a model of torchvision, without its weights",
}


def stranger(name: str, *, classes: int, channels: int, size: int | list[int]) -> nn.Module | None:
    """The model, if the name is one of `STRANGERS`; else None.

    Raises:
        UnsafeFile: the name comes from somebody's data, and nobody allowed the file; see `allowed.code_from`.
        NotFound: no such file, no such name in it, or no such model of the library.
        BadInput: the file or the factory fails, needs another argument, or makes something that is no module; or the
            library is not installed.
    """
    if match := FACTORY.fullmatch(name):
        check_allowed([name])
        return _from_file(match[1], match[2], classes=classes, num_classes=classes, channels=channels, size=size)
    library, _, inner = name.partition(":")
    if not inner or library not in ("timm", "torchvision"):
        return None
    try:
        found = importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise BadInput(f"{name} needs {library}, which is not installed. Type: pip install {library}") from error
    if library == "timm":
        if not found.is_model(inner):
            raise NotFound.among("timm model", inner, found.list_models())
        return found.create_model(inner, pretrained=False, num_classes=classes, in_chans=channels)
    models = found.models  # which take three channels
    if inner not in (known := models.list_models(module=models)):
        raise NotFound.among("torchvision model", inner, known)
    return models.get_model(inner, weights=None, num_classes=classes)


def _from_file(file: str, factory: str, **offered: Any) -> nn.Module:
    """Run the user's `file` and call `factory` in it, as `import` would: the file's code is executed.

    The factory (a function, or the model's class) gets those of `classes` (or `num_classes`), `channels` and `size`
    that it names as arguments. The file may import from its own folder.
    """
    path, asked = Path(file).expanduser(), f"{file}:{factory}"
    if not path.is_file():
        raise NotFound.among("file", file, map(str, path.parent.glob("*.py")))
    module = _run(path)
    make = getattr(module, factory, None)
    if not callable(make):
        own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
        raise NotFound.among(f"factory in {file}", factory, own)
    signature = inspect.signature(make)
    taken = {name: value for name, value in offered.items() if name in signature.parameters}
    try:
        signature.bind(**taken)
    except TypeError as error:
        raise BadInput(
            f"{asked}: {error}. A factory is called with {', '.join(offered)} at most, by name; "
            "give its other arguments defaults."
        ) from error
    try:
        made = make(**taken)
    except (Exception, SystemExit) as error:
        raise _failed(asked, error) from error
    if not isinstance(made, nn.Module):
        raise BadInput(f"{asked} made a {type(made).__name__}, no torch.nn.Module. Return the model itself.")
    return made


def _run(path: Path) -> ModuleType:
    """Execute `path` as a module of its own name; always anew, so that an edited file counts."""
    path = path.resolve()
    module = ModuleType(f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(path.parent))
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise _failed(path, error) from error
    finally:
        with suppress(ValueError):
            sys.path.remove(str(path.parent))
    return module


def _failed(what: object, error: BaseException) -> BadInput:
    return BadInput(f"{what} failed: {type(error).__name__}: {error}. Mend it, then ask again.")
