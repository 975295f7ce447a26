"""Marks: what a function says of itself as a method of its kind, and the types of options with their bounds."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from .errors import BadInput
from .selectors import lowered

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
Source = Annotated[str, "images"]  # a word of the method, or images as `images` opens them, with options in brackets

T = TypeVar("T")
Many = Annotated[list[T], Field(min_length=1)]
Weights = NonNegative | Many[NonNegative]  # one for all, or one each

F = TypeVar("F", bound=Callable[..., Any])


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
        later: options that came along after results had been kept: where they have their defaults, nothing names them,
            so that those results are found.
    """

    kind: str
    paper: str
    version: int = 1
    null: bool = False
    cost: Callable[[dict[str, Any], int], float] | None = None
    later: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """JSON-able, and enough to make the mark again, but for the facts that are functions."""
        functions = {field.name for field in dataclasses.fields(self) if "Callable" in str(field.type)}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in functions}


@dataclass(frozen=True, kw_only=True)
class AttackMark(Mark):
    """Of an attack.

    Args:
        place: where it enters the pipeline: 1 training data, 2 teacher, 3 transfer set, 4 synthetic set, 5 encoder.
        references: how many images of the target class it takes, of an attack on an encoder.
        notes: what it leaves behind for metrics, by name (keys of `Planted.notes`).
        clean_label: what it poisons keeps its label; it is held to a lower ASR before a defence earns credit on it.
    """

    place: Place
    references: int = 0
    notes: tuple[str, ...] = ()
    clean_label: bool = False


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
        also: what else it cleans: a "classifier", of one that cleans encoders.
        unlabelled: it cleans classifiers and looks at no labels.
        blind: it takes the suspect's architecture and normalisation and none of its weights, so that in a study both
            arms share it.
    """

    on: On = "classifier"
    also: On | None = None
    unlabelled: bool = False
    blind: bool = False

    def cleans(self, what: On) -> bool:
        """Whether it cleans such things."""
        return what in (self.on, self.also)


@dataclass(frozen=True, kw_only=True)
class DetectorMark(Mark):
    """Of a detector.

    Args:
        on: what it looks at; "any" is whatever there is.
        finds: its finding brings a trigger, which can be written down and measured.
    """

    on: On | Literal["any"] = "classifier"
    finds: bool = False


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
        asked: only cells of studies that name it under `metrics` have it.
        makes: products that are made for it alone: name → function of other products, whose keyword-only options take
            the values of the attack's options of the same name.
    """

    interval: bool = False
    fields: Mapping[str, Column] = Field(default_factory=dict)
    order: int = 50
    aside: bool = False
    place: Place | None = None
    on: On | None = None
    asked: bool = False
    makes: Mapping[str, Callable[..., Any]] = Field(default_factory=dict)

    def columns(self, name: str) -> dict[str, Column]:
        """The fields of a cell that the metric of this name fills, but for intervals."""
        return dict(self.fields) or {name: self}


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
            known = ", ".join(f.name for f in dataclasses.fields(facts) if f.name not in ("kind", "paper"))
            reason = f"{first['loc'][0]}: {lowered(first['msg'])}"
            raise BadInput(f"@{kind.removesuffix('s')}: {reason}. Its facts: paper, {known}.") from None

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
