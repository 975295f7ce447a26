"""Registry: finds every marked function, and knows its options.

A method is one file in the folder of its kind. The decorator marks the function and leaves it callable and
picklable; the registry reads name, options and bounds from file name, signature and docstring.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cards import card
from .errors import BadInput, DistrustError, NotFound
from .files import remembered
from .marks import KINDS, Mark
from .selectors import checked, schema

SUPPLIED = {"rng", "device"}  # arguments that the caller provides; they are not options


@dataclasses.dataclass(frozen=True)
class Method:
    """A registered method: its name (the file's), its mark, and the function itself."""

    name: str
    mark: Any  # of its kind
    call: Callable[..., Any]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.call) or "").partition("\n")[0]

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of its positional parameters: the products that it is given, such as model and clean."""
        parameters = inspect.signature(self.call).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """Those of its inputs that have no default: without them it is not called."""
        parameters = inspect.signature(self.call).parameters
        return frozenset(name for name in self.inputs if parameters[name].default is inspect.Parameter.empty)

    @functools.cached_property
    def training(self) -> Any:
        """The default of its keyword `training`, if it has one, whose fields are options each: `nad[lr=0.02]`."""
        return vars(self.call).get("training")

    @functools.cached_property
    def options(self) -> dict[str, inspect.Parameter]:
        """What may be set, with defaults; annotations carry type and bounds."""
        parameters = inspect.signature(self.call).parameters
        is_class = inspect.isclass(self.call)
        hints = typing.get_type_hints(self.call.__init__ if is_class else self.call, include_extras=True)
        settable: dict[str, inspect.Parameter] = {}
        for name, p in parameters.items():
            if name == "training":
                settable |= self.training.fields
            elif name not in SUPPLIED and (p.kind is p.KEYWORD_ONLY or is_class):
                settable[name] = p.replace(annotation=hints.get(name, Any))
        return settable

    @functools.cached_property
    def tacit(self) -> dict[str, Any]:
        """Options that `check` names only where they have another value than this, their default."""
        fields = self.training.fields if self.training else {}
        found = {name: p.default for name, p in fields.items() if name not in self.training.usual}
        return found | {name: self.options[name].default for name in self.mark.later}

    def __hash__(self) -> int:
        return hash((self.mark.kind, self.name))

    @functools.cached_property
    def _schema(self) -> Any:
        return schema(self.name, self.options)

    def check(self, given: dict[str, Any]) -> dict[str, Any]:
        """Validate `given`, fill in the defaults, and return every option with its value, but for `tacit` ones.

        Raises:
            NotFound: an option that the method does not have.
            BadInput: a value of the wrong type or out of bounds.
        """
        hint = f"Type `distrust show {self.name}` for its options."
        found = checked(self._schema, given, hint, f"{self.name}: ")
        return {k: v for k, v in found.items() if k not in self.tacit or v != self.tacit[k]}

    def cost(self, options: dict[str, Any], n: int) -> float:
        """Images that go through a training step when the method is given n of them; see `Mark`."""
        if self.mark.cost:
            return float(self.mark.cost(options, n))
        return float(n * sum(v for k, v in options.items() if k.endswith("epochs")))

    def made(self, options: dict[str, Any]) -> Any:
        """The method with its options: an object of a class, else the function with them filled in.

        Options as `check` gives them, also after a way through JSON; fields of `training` become one.
        """
        bound = dict(options)
        if self.training:
            bound["training"] = self.training.changed(**{k: bound.pop(k) for k in self.training.fields if k in bound})
        return self.call(**bound) if inspect.isclass(self.call) else functools.partial(self.call, **bound)

    @functools.cached_property
    def version(self) -> str:
        """What a key says of the code: the mark's version; of a method from outside also a hash of its syntax tree.

        The package's own methods are held to their version by canaries (tests/canaries.json), so that code may be
        moved and rewritten; nothing holds a user's file, so there every change but of comments counts.
        """
        file = Path(inspect.getfile(self.call))
        inside = file.is_relative_to(Path(__file__).parent)
        return str(self.mark.version) if inside else f"{self.mark.version}:{_syntax(file)}"


@functools.cache
def _syntax(path: Path) -> str:
    tree = ast.parse(path.read_text())
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


PLUGIN = "One in a file of yours takes --plugin FILE.py."


def load_package(package: str) -> dict[str, Any]:
    """Import every public module of a kind's folder; return {file name: its marked function}."""
    found = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            (found[module.name],) = _marked(importlib.import_module(f"{package}.{module.name}"))
    return found


def _marked(module: Any) -> list[Any]:
    """What is marked in a file, and not brought from another one."""
    marked = [value for value in vars(module).values() if isinstance(getattr(value, "method", None), Mark)]
    return [value for value in marked if value.__module__ == module.__name__]


def _facts() -> dict[str, Any]:
    """What is to be remembered of the package's own methods: marks and cards, by kind and name."""
    own = Registry()
    return {
        kind: {name: {"mark": method.mark.plain(), "card": card(method)} for name, method in own.kind(kind).items()}
        for kind in KINDS
    }


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise NotFound.among("kind", kind, KINDS)


def _installed() -> importlib.metadata.EntryPoints:
    """Methods that other installed packages bring."""
    return importlib.metadata.entry_points(group="distrust.methods")


class Registry:
    """Every method by kind and name: the package's own, installed plug-ins, and files given with --plugin."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Method]] = {}
        self._marks: dict[str, dict[str, Any]] = {}  # of kinds whose methods are not imported
        self.files: list[Path] = []  # plug-ins, which worker processes have to add for themselves

    def kind(self, kind: str) -> dict[str, Method]:
        """All methods of a kind, sorted by name.

        Raises:
            NotFound: no such kind.
        """
        _check(kind)
        if kind not in self._kinds:
            calls = load_package(f"distrust.methods.{kind}")
            calls |= {e.name: call for e in _installed() if (call := e.load()).method.kind == kind}
            self._kinds[kind] = {name: Method(name, call.method, call) for name, call in calls.items()}
        return dict(sorted(self._kinds[kind].items()))

    def cards(self, kind: str) -> dict[str, dict[str, Any]]:
        """What `distrust show` says of each method of a kind, sorted by name; no method is imported for it.

        Raises:
            NotFound: no such kind.
        """
        _check(kind)
        if self._live(kind):
            return {name: card(method) for name, method in self.kind(kind).items()}
        return {name: facts["card"] for name, facts in remembered("methods", _facts)[kind].items()}

    def marks(self, kind: str) -> dict[str, Any]:
        """The mark of each method of a kind, sorted by name; if none is imported yet, without facts that are functions.

        Raises:
            NotFound: no such kind.
        """
        _check(kind)
        if kind in self._marks and kind not in self._kinds:
            return self._marks[kind]
        if self._live(kind):
            return {name: method.mark for name, method in self.kind(kind).items()}
        known = remembered("methods", _facts)[kind]
        self._marks[kind] = {name: KINDS[kind](**facts["mark"]) for name, facts in known.items()}
        return self._marks[kind]

    def _live(self, kind: str) -> bool:
        """Methods are asked themselves: they are imported, or some may change without our knowing."""
        return kind in self._kinds or bool(_installed())

    def get(self, kind: str, name: str) -> Method:
        """One method.

        Raises:
            NotFound: with near matches.
        """
        methods = self._kinds.get(kind) or self.kind(kind)
        if name not in methods:
            raise NotFound.among(kind.removesuffix("s"), name, methods, PLUGIN)
        return methods[name]

    def find(self, name: str) -> Method:
        """One method, of whatever kind; the first kind that knows the name wins."""
        every = {method.name: method for kind in reversed(KINDS) for method in self.kind(kind).values()}
        if name not in every:
            raise NotFound.among("method", name, every, PLUGIN)
        return every[name]

    def add(self, path: str | Path) -> Method:
        """Register the marked methods of a user's Python file (this runs the file).

        A single one has the file's name, several have their own.

        Returns:
            The first of them.

        Raises:
            NotFound: no such file.
            BadInput: the file fails, or holds no marked method.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise NotFound(f"no plug-in file {path}. Give a Python file that holds a marked method.")
        name = f"distrust_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            if isinstance(error, DistrustError):
                raise
            raise BadInput(f"{path} failed: {type(error).__name__}: {error}. Mend it, then ask again.") from error
        if not (calls := _marked(module)):
            raise BadInput(
                f"{path.name} holds no marked method. Put a mark above a function, such as @defense(paper=…)."
            )
        methods = [Method(path.stem if len(calls) == 1 else call.__name__, call.method, call) for call in calls]
        for method in methods:
            self.kind(method.mark.kind)
            self._kinds[method.mark.kind][method.name] = method
        self.files.append(path)
        return methods[0]


registry = Registry()
