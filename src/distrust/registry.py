"""Methods: marks that say what a function is, and the registry that finds every marked function.

A method is one file in the folder of its kind. The decorator marks the function and leaves it callable and
picklable; the registry reads name, options and bounds from file name, signature and docstring.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import pkgutil
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from .errors import BadInput, NotFound
from .selectors import checked, lowered, schema
from .versions import syntax

SUPPLIED = {"rng", "device"}  # arguments that the caller provides; they are not options

Rate = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]  # of something that is there: never none of it
Part = Annotated[float, Field(ge=0, lt=1)]  # of something that must not go: never all of it
Half = Annotated[float, Field(gt=0, le=0.5)]
Factor = Annotated[float, Field(gt=1, le=10)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Power = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Passes = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=0)]
Several = Annotated[int, Field(ge=2)]
ClassNumber = Annotated[int, Field(ge=0)]
Levels = Annotated[int, Field(ge=0, le=255)]  # grey levels
Bits = Annotated[int, Field(ge=1, le=8)]  # of a channel

T = TypeVar("T")
Many = Annotated[list[T], Field(min_length=1)]
Weights = NonNegative | Many[NonNegative]  # one for all, or one each

F = TypeVar("F", bound=Callable[..., Any])


PLACES = {1: "train", 2: "model", 3: "transfer", 4: "synthetic", 5: "encoder"}  # what an attack of this place replaces
Place = Literal[1, 2, 3, 4, 5]
On = Literal["classifier", "transfer", "synthetic", "encoder"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Mark:
    """What a decorator writes on a method of any kind.

    Args:
        kind: the folder it belongs to.
        paper: authors, venue, year, arXiv number.
        version: raised when the method computes something else; stored results of older versions are left alone.
        null: a null row, shown in every table.
        cost: (options, n) → how many images go through a training step of a network, of n that the method is given;
            for the estimate of a study (default: n times every option whose name ends in "epochs").
    """

    kind: str
    paper: str
    version: int = 1
    null: bool = False
    cost: Callable[[dict[str, Any], int], float] | None = None


@dataclass(frozen=True, kw_only=True)
class AttackMark(Mark):
    """Of an attack.

    Args:
        place: where it enters the pipeline: 1 training data, 2 teacher, 3 transfer set, 4 synthetic set, 5 encoder.
        references: how many images of the target class it takes, of an attack on an encoder.
        notes: what it leaves behind for metrics, by name (keys of `Planted.notes`).
    """

    place: Place
    references: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DistillerMark(Mark):
    """Of a distiller.

    Args:
        label_weight: its usual weight for the cross-entropy on labels.
        logits_only: it reads no inner layers.
        auto: which layers it reads unless told otherwise: a word that `resolve` knows.
        teacher_mode: the mode in which its released code runs the teacher.
        warmup: in two stages, the share of the epochs in which the student follows this loss alone.
        then: the loss of its second stage; None leaves the labels.
    """

    label_weight: float = 1.0
    logits_only: bool = False
    auto: str = "groups"
    teacher_mode: Literal["eval", "train"] = "eval"
    warmup: float = 0.0
    then: Callable[..., Any] | None = None


@dataclass(frozen=True, kw_only=True)
class DefenseMark(Mark):
    """Of a defence.

    Args:
        on: what it cleans: a "classifier", an "encoder", or images: a "transfer" set or a "synthetic" one.
        blind: it takes the suspect's architecture and normalisation and none of its weights, so that in a study both
            arms share it.
    """

    on: On = "classifier"
    blind: bool = False


@dataclass(frozen=True, kw_only=True)
class DetectorMark(Mark):
    """Of a detector.

    Args:
        on: what it looks at; "any" is whatever there is.
    """

    on: On | Literal["any"] = "classifier"


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a field of a cell holds.

    Args:
        heading: of its column; "" is its name.
        unit: "share" (a fraction, shown in percent), "points" (a difference of shares, likewise), "ratio", "count",
            "score", "seconds", or "" for what has none, or no column could hold.
        low: the least that it can be, None where there is no such end.
        high: the most that it can be, likewise.
        better: which way is better for a defender: "higher", "lower", or "" for neither.
    """

    heading: str = ""
    unit: Literal["share", "points", "ratio", "count", "score", "seconds", ""] = "share"
    low: float | None = 0.0
    high: float | None = 1.0
    better: Literal["higher", "lower", ""] = ""


@dataclass(frozen=True, kw_only=True)
class MetricMark(Column, Mark):
    """Of a metric, whose parameters are the products that it needs, by name; see docs/own-method.md.

    Args:
        interval: it returns a `Rate`: a value, and its interval, which a cell holds beside it as `<name>_interval`.
        fields: of a metric that returns a mapping, its fields; of any other, the field is the metric itself.
        order: where it stands among the fields of a cell and the columns of a table, low first.
        aside: the line that a measurement prints leaves it out.
        place: only cells whose attack enters here have it.
        on: only cells whose defence cleans this have it.
        makes: products that are made for it alone: name → function of other products, whose keyword-only options take
            the values of the attack's options of the same name.
    """

    interval: bool = False
    fields: Mapping[str, Column] = Field(default_factory=dict)
    order: int = 50
    aside: bool = False
    place: Place | None = None
    on: On | None = None
    makes: Mapping[str, Callable[..., Any]] = Field(default_factory=dict)


KINDS: dict[str, type[Mark]] = {
    "triggers": Mark, "attacks": AttackMark, "distillers": DistillerMark, "condensers": Mark, "objectives": Mark,
    "heads": Mark, "defenses": DefenseMark, "detectors": DetectorMark, "metrics": MetricMark,
}  # fmt: skip


def _marker(kind: str, facts: type[Mark]) -> Callable[..., Callable[[F], F]]:
    def decorator(paper: str, **given: Any) -> Callable[[F], F]:
        try:
            mark = facts(kind=kind, paper=paper, **given)
        except ValidationError as error:
            first = error.errors()[0]
            wrong = "missing" if first["type"].startswith("missing") else lowered(first["msg"])
            known = ", ".join(f.name for f in dataclasses.fields(facts) if f.name != "kind")
            raise BadInput(f"@{kind.removesuffix('s')}: {first['loc'][0]}: {wrong}. Its facts: {known}.") from None

        def put(call: F) -> F:
            call.method = mark  # type: ignore[attr-defined]
            if "training" in (parameters := inspect.signature(call).parameters):
                call.training = parameters["training"].default  # type: ignore[attr-defined]
            return call

        return put

    decorator.__doc__ = f"Mark a function as one of the {kind}; facts as `{facts.__name__}` lists them."
    return decorator


trigger, attack, distiller, condenser, objective, head, defense, detector, metric = itertools.starmap(
    _marker, KINDS.items()
)


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
        hints = typing.get_type_hints(
            self.call.__init__ if inspect.isclass(self.call) else self.call, include_extras=True
        )
        settable: dict[str, inspect.Parameter] = {}
        for name, p in parameters.items():
            if name == "training":
                settable |= self.training.fields
            elif name not in SUPPLIED and (p.kind is p.KEYWORD_ONLY or inspect.isclass(self.call)):
                settable[name] = p.replace(annotation=hints.get(name, Any))
        return settable

    @functools.cached_property
    def tacit(self) -> dict[str, Any]:
        """Options that `check` names only where they have another value than this, their default."""
        fields = self.training.fields if self.training else {}
        return {name: p.default for name, p in fields.items() if name not in self.training.usual}

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
        return str(self.mark.version) if inside else f"{self.mark.version}:{syntax(file)}"


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
