"""Methods: marks that say what a function is, and the registry that finds every marked function.

A method is one file in the folder of its kind. The decorator marks the function and leaves it callable and
picklable; the registry reads name, options and bounds from file name, signature and docstring.
"""

from __future__ import annotations

import ast
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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, create_model

from .errors import BadInput, NotFound

KINDS = ("triggers", "attacks", "distillers", "condensers", "objectives", "heads", "defenses", "detectors")
SUPPLIED = {"rng", "device"}  # arguments that the caller provides; they are not options

Rate = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Power = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Passes = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=0)]
ClassNumber = Annotated[int, Field(ge=0)]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Mark:
    """What a decorator writes on a method.

    Args:
        kind: the folder it belongs to.
        paper: authors, venue, year, arXiv number.
        version: raised when the method computes something else; stored results of older versions are left alone.
        place: of an attack, where it enters the pipeline (1 training data … 5 encoder).
        raw: of an attack on a synthetic set, it also takes the training images that were condensed.
        references: of an attack on an encoder, how many images of the target class it takes.
        on: of a defence or detector, "classifier" or "encoder", or images: a "transfer" set or a "synthetic" one.
        blind: of a defence of encoders, it takes the suspect's architecture and normalisation and none of its weights,
            so that in a study both arms share it.
        label_weight: of a distiller, its usual weight for the cross-entropy on labels.
        logits_only: of a distiller, it reads no inner layers.
        auto: of a distiller, which layers it reads unless told otherwise: a word that `resolve` knows.
        teacher_mode: of a distiller, the mode in which its released code runs the teacher, "eval" or "train".
        warmup: of a distiller in two stages, the share of the epochs in which the student follows this loss alone.
        then: the loss of its second stage; None leaves the labels.
        null: a null row, shown in every table.
    """

    kind: str
    paper: str
    version: int = 1
    place: int | None = None
    raw: bool = False
    references: int = 0
    on: str = "classifier"
    blind: bool = False
    label_weight: float = 1.0
    logits_only: bool = False
    auto: str = "groups"
    teacher_mode: str = "eval"
    warmup: float = 0.0
    then: Callable[..., Any] | None = None
    null: bool = False


def _marker(kind: str) -> Callable[..., Callable[[F], F]]:
    def decorator(paper: str, **facts: Any) -> Callable[[F], F]:
        def put(call: F) -> F:
            call.method = Mark(kind, paper, **facts)  # type: ignore[attr-defined]
            return call

        return put

    decorator.__doc__ = f"Mark a function as one of the {kind}; facts as `Mark` lists them."
    return decorator


trigger, attack, distiller, condenser, objective, head, defense, detector = map(_marker, KINDS)


@dataclass(frozen=True)
class Method:
    """A registered method: its name (the file's), its mark, and the function itself."""

    name: str
    mark: Mark
    call: Callable[..., Any]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.call) or "").partition("\n")[0]

    @functools.cached_property
    def options(self) -> dict[str, inspect.Parameter]:
        """What may be set, with defaults; annotations carry type and bounds."""
        parameters = inspect.signature(self.call).parameters
        hints = typing.get_type_hints(
            self.call.__init__ if inspect.isclass(self.call) else self.call, include_extras=True
        )
        settable = {
            name: p.replace(annotation=hints.get(name, Any))
            for name, p in parameters.items()
            if name not in SUPPLIED and (p.kind is p.KEYWORD_ONLY or inspect.isclass(self.call))
        }
        return settable

    def __hash__(self) -> int:
        return hash((self.mark.kind, self.name))

    @functools.cached_property
    def _schema(self) -> Any:
        fields: dict[str, Any] = {}
        for name, p in self.options.items():
            fields[name] = (p.annotation, ... if p.default is p.empty else p.default)
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=False)
        return create_model(self.name, __config__=config, **fields)

    def check(self, given: dict[str, Any]) -> dict[str, Any]:
        """Validate `given`, fill in the defaults, and return every option with its value.

        Raises:
            NotFound: an option that the method does not have.
            BadInput: a value of the wrong type or out of bounds.
        """
        for name in given:
            if name not in self.options:
                raise NotFound.among(f"option of {self.name}", name, self.options)
        try:
            checked = self._schema(**given)
        except ValidationError as error:
            first = max(error.errors(), key=lambda e: len(e["loc"]))  # of a union, the best branch
            name = str(first["loc"][0])
            raise BadInput(
                f"{self.name}: {name}={given.get(name)!r}: {first['msg'][:1].lower()}{first['msg'][1:]}. "
                f"Type `distrust show {self.name}` for its options."
            ) from None
        return {name: getattr(checked, name) for name in self.options}

    def made(self, options: dict[str, Any]) -> Any:
        """The method with its options: an object of a class, else the function with them filled in."""
        return self.call(**options) if inspect.isclass(self.call) else functools.partial(self.call, **options)

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
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def load_package(package: str) -> dict[str, Any]:
    """Import every public module of a kind's folder; return {file name: its marked function}."""
    found = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            found[module.name] = _marked(importlib.import_module(f"{package}.{module.name}"), module.name)
    return found


def _marked(module: Any, name: str) -> Any:
    own = [
        value
        for value in vars(module).values()
        if isinstance(getattr(value, "method", None), Mark) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise BadInput(f"{name}.py holds {len(own)} marked methods; a method file holds exactly one.")
    return own[0]


class Registry:
    """Every method by kind and name: the package's own, installed plug-ins, and files given with --plugin."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Method]] = {}
        self.files: list[Path] = []  # plug-ins, which worker processes have to add for themselves

    def kind(self, kind: str) -> dict[str, Method]:
        """All methods of a kind, sorted by name.

        Raises:
            NotFound: no such kind.
        """
        if kind not in KINDS:
            raise NotFound.among("kind", kind, KINDS)
        if kind not in self._kinds:
            calls = load_package(f"distrust.methods.{kind}")
            self._kinds[kind] = {name: Method(name, call.method, call) for name, call in sorted(calls.items())}
            for entry in importlib.metadata.entry_points(group="distrust.methods"):
                call = entry.load()
                if call.method.kind == kind:
                    self._kinds[kind][entry.name] = Method(entry.name, call.method, call)
        return dict(sorted(self._kinds[kind].items()))

    def get(self, kind: str, name: str) -> Method:
        """One method.

        Raises:
            NotFound: with near matches.
        """
        methods = self.kind(kind)
        if name not in methods:
            raise NotFound.among(kind.removesuffix("s"), name, methods)
        return methods[name]

    def find(self, name: str) -> Method:
        """One method, of whatever kind; the first kind that knows the name wins."""
        every = {method.name: method for kind in reversed(KINDS) for method in self.kind(kind).values()}
        if name not in every:
            raise NotFound.among("method", name, every)
        return every[name]

    def add(self, path: str | Path) -> Method:
        """Register the one marked method of a user's Python file (this runs the file).

        Raises:
            NotFound: no such file.
            BadInput: the file does not hold exactly one marked method.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise NotFound(f"no plug-in file {path}. Give a Python file that holds one marked method.")
        name = f"distrust_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        sys.modules[name] = module
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        call = _marked(module, path.stem)
        method = Method(path.stem, call.method, call)
        self.kind(call.method.kind)
        self._kinds[call.method.kind][path.stem] = method
        self.files.append(path)
        return method


registry = Registry()
