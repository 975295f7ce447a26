"""Scores: a model's answers and what else is known of it become one flat object, by every metric that has its needs.

A metric's parameters name what it is given: a product, an axis, or another metric's field. Definitions of our own
metrics are in docs/measurement.md. Every rate is a fraction 0..1.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from torch import Tensor, nn

from ..data.images import ImageSet
from ..errors import BadInput
from ..flags import MEANING, heard
from ..intervals import Interval
from ..marks import Column
from ..models import check_fits
from ..registry import Method, registry
from .backdoor import Backdoor
from .predict import predict

HEAVY = (
    "model", "teacher_model", "control_model", "test", "train", "clean", "backdoor", "before", "poisoned", "suspect",
    "cleaned", "trained_on",
)  # fmt: skip


class Seen(NamedTuple):
    """One model's answers for the test images: class numbers int64 [N] each; all that most metrics need."""

    y: Tensor  # true classes
    clean: Tensor
    triggered: Tensor | None


class Rate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Measurement:
    """What the metrics say of one model, with `values` as attributes: `found.asr`.

    Args:
        values: field → number (or None, where what it needs is not there), in the order of a cell; rates have their
            interval beside them as `<name>_interval`. `dt.metrics` defines each.
        flags: why a number must not be believed; see `distrust.flags`.
    """

    values: dict[str, Any]
    flags: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"nothing was measured that is called {name!r}") from None

    def __str__(self) -> str:
        parts = []
        for method in metrics():
            for field, column in columns(method).items() if not method.mark.aside else ():
                value = self.values.get(field)
                if isinstance(value, int | float):
                    word = column.heading or field
                    word = word[:1].lower() + word[1:] if word[1:2].islower() else word
                    parts.append(f"{word} {_shown(value, self.values.get(f'{field}_interval'), column.unit)}")
        if self.flags:
            parts.append(f"flags: {', '.join(self.flags)}")
        return " · ".join(parts)

    def flagged(self, *names: str) -> Measurement:
        """The same with more flags."""
        return Measurement(self.values, tuple(name for name in MEANING if name in {*self.flags, *names}))

    def _repr_html_(self) -> str:
        row = Markup("<tr><th>{}</th><td>{}</td></tr>")
        return Markup("<table>{}</table>").format(Markup("").join(row.format(*fact) for fact in self.record().items()))

    def record(self) -> dict[str, Any]:
        """A flat, JSON-able object."""
        found = {**self.values, "flags": self.flags}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def measure(
    model: nn.Module,
    test: ImageSet,
    backdoor: Backdoor | None = None,
    *,
    control: nn.Module | None = None,
    undefended: nn.Module | None = None,
    seeds: int = 1,
) -> Measurement:
    """Measure a model on test images.

    Args:
        model: images in 0..1 → logits.
        test: the test images; used once, never to choose anything.
        backdoor: the trigger and its target; without one, only ACC.
        control: the same pipeline with the attack left out, measured with the same trigger.
        undefended: the model before a defence, for the flag acc-floor.
        seeds: how many training runs the caller has.

    Raises:
        BadInput: the images do not fit the model, or the target is no class.
    """
    for network in (model, control, undefended):
        if network is not None:
            check_fits(network, test)
    if backdoor and not 0 <= backdoor.target < len(test.classes):
        raise BadInput(f"target={backdoor.target} is no class; {test.name} has 0..{len(test.classes) - 1}.")

    def look(network: nn.Module) -> Seen:
        return Seen(test.hard.cpu(), predict(network, test), predict(network, test, backdoor) if backdoor else None)

    products = {
        "seen": look(model), "target": backdoor.target if backdoor else None,
        "control": look(control) if control is not None and backdoor else None,
        "model": model, "control_model": control, "test": test, "backdoor": backdoor,
    }  # fmt: skip
    if undefended is not None:
        products["undefended"] = look(undefended)
    raised = ("off-range-trigger",) if backdoor and backdoor.as_published else ()
    return score(products, flags=raised, seeds=seeds)


def score(
    products: Mapping[str, Any],
    *,
    place: int | None = None,
    on: str | None = None,
    known: Mapping[str, Any] | None = None,
    flags: Iterable[str] = (),
    seeds: int = 1,
) -> Measurement:
    """Call every metric whose needs are there, one after the other as they need each other.

    A metric that requires something that is not among the products is left out; one that requires something that is
    there and None is None.

    Args:
        products: name → what a metric may ask for: answers (`seen`, `control`, `undefended`, `teacher`,
            `teacher_control`: `Seen`), the `target`, a detector's `finding` and `finding_control`, the `records` of
            stages, axes by their names, and, where they are at hand, those of `HEAVY`.
        place: where the attack enters, if there is one.
        on: what the defence cleans, if there is one.
        known: what metrics returned that were called before, by name.
        flags: raised on the way here.
        seeds: training runs behind the number.
    """
    own = metrics(place, on)
    owner = {field: method for method in own for field in columns(method)}
    values: dict[str, Any] = {}
    pool: Mapping[str, Any] = ChainMap(dict(products), values)
    begun: set[str] = set()

    def there(name: str) -> bool:
        if name not in pool and name not in HEAVY and name in owner:
            fill(owner[name])
        return name in pool

    def fill(method: Method) -> None:
        if method.name in begun:
            return
        begun.add(method.name)
        if known and method.name in known:
            values.update(_flat(method, known[method.name]))
        elif all([there(name) for name in method.required]):
            given = {name: pool[name] for name in method.inputs if there(name) and pool[name] is not None}
            values.update(_flat(method, method.call(**given) if method.required <= given.keys() else None))

    with heard() as raised:
        for method in own:
            fill(method)
    names = {*flags, *raised} | ({"one-seed"} if seeds == 1 and products.get("seen") else set())
    ordered = {f: values[f] for field in owner for f in (field, f"{field}_interval") if f in values}
    return Measurement(ordered, tuple(name for name in MEANING if name in names))


def planned(
    names: Iterable[str], *, place: int | None = None, on: str | None = None, asked: Iterable[str] = ()
) -> list[Method]:
    """The metrics that need more than answers and are given all of it: each is work of its own.

    Args:
        names: of the products, `HEAVY` ones and an attack's notes included, and of the axes.
        place: where the attack enters, if there is one.
        on: what the defence cleans, if there is one.
        asked: metrics that the study names.
    """
    there = set(names)
    notes = {note for attack in registry.kind("attacks").values() for note in attack.mark.notes}
    found = []
    for method in metrics(place, on):
        if method.mark.asked and method.name not in asked:
            continue
        made = {n for n, call in method.mark.makes.items() if Method(n, method.mark, call).required <= there}
        if {*HEAVY, *notes, *method.mark.makes} & {*method.inputs} and method.required <= there | made:
            found.append(method)
    return found


def metrics(place: int | None = None, on: str | None = None) -> list[Method]:
    """The metrics of a cell whose attack enters at `place` and whose defence cleans `on`, in the order of fields."""
    own = [m for m in registry.kind("metrics").values() if m.mark.place in (None, place) and m.mark.on in (None, on)]
    return sorted(own, key=lambda method: (method.mark.order, method.name))


def columns(method: Method) -> dict[str, Column]:
    """The fields of a cell that a metric fills, but for intervals."""
    return method.mark.columns(method.name)


def _flat(method: Method, found: Any) -> dict[str, Any]:
    """What a metric returned, as fields of a cell; of a stored value, JSON's lists."""
    if method.mark.fields:
        return {field: found and found[field] for field in method.mark.fields}
    if method.mark.interval:
        value, interval = found or (None, None)
        return {method.name: value, f"{method.name}_interval": interval and tuple(interval)}
    return {method.name: found}


def _shown(value: float, interval: Interval | None, unit: str) -> str:
    if unit not in ("share", "points"):
        return f"{value:.3g}"
    reach = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * value:.1f}{reach}"
