"""Measurement: ACC, ASR and their control arm, with intervals and flags; pure functions of predictions.

Definitions are in docs/measurement.md. Every rate is a fraction 0..1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import stats
from torch import Tensor, nn

from ..data.images import ImageSet
from ..errors import BadInput
from ..flags import MEANING
from ..models import check_fits
from .backdoor import Backdoor
from .predict import predict

ACC_FLOOR = 0.10  # a defence that costs more earns no credit
CONTROL_FIRES = 0.10  # trigger's pull on a model that was never attacked
TEACHER_CARRIES = 0.05  # below it, nothing was there to inherit
FEW_IMAGES = 200
COLLAPSED = 0.5  # share of clean images of other classes that a sound model never calls the target

Interval = tuple[float, float]


class Seen(NamedTuple):
    """Per-image predictions of one model on the test images: class numbers [N]; all that a score needs."""

    clean: Tensor
    triggered: Tensor | None


@dataclass(frozen=True)
class Measurement:
    """What one model does with a trigger, beside what a model that was never attacked does.

    Args:
        acc: accuracy on all clean test images, with `acc_interval` (Wilson, 95 %).
        asr: share of triggered images of other classes that are called the target, with `asr_interval`.
        asr_all: the same with the target's own images counted.
        base: ASR of the same trigger on the control arm, or None without one.
        untriggered: share of clean images of other classes that are called the target.
        titg: P(target | triggered) − P(target | clean) over all test images.
        carried: asr − base, with `carried_interval` (paired over images).
        n: triggered images behind `asr`.
        flags: why a number must not be believed; see `distrust.flags`.
    """

    acc: float
    asr: float | None
    asr_all: float | None
    base: float | None
    untriggered: float | None
    titg: float | None
    carried: float | None
    n: int
    flags: tuple[str, ...]
    acc_interval: Interval
    asr_interval: Interval | None
    carried_interval: Interval | None

    def __str__(self) -> str:
        parts = [f"ACC {_percent(self.acc, self.acc_interval)}"]
        if self.asr is not None:
            parts.append(f"ASR {_percent(self.asr, self.asr_interval)}")
        if self.carried is not None:
            parts += [
                f"base {_percent(self.base)}",
                f"carried {_percent(self.carried, self.carried_interval)}",
            ]
        if self.flags:
            parts.append(f"flags: {', '.join(self.flags)}")
        return " · ".join(parts)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in self.record().items())
        return f"<table>{rows}</table>"

    def record(self) -> dict[str, Any]:
        """A flat, JSON-able object."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


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
        return Seen(predict(network, test), predict(network, test, backdoor) if backdoor else None)

    return score(
        test.hard.cpu(),
        look(model),
        target=backdoor.target if backdoor else None,
        control=look(control) if control is not None and backdoor else None,
        undefended=predict(undefended, test) if undefended is not None else None,
        seeds=seeds,
        flags=("off-range-trigger",) if backdoor and backdoor.as_published else (),
    )


def score(
    y: Tensor,
    seen: Seen,
    *,
    target: int | None = None,
    control: Seen | None = None,
    undefended: Tensor | None = None,
    seeds: int = 1,
    flags: Sequence[str] = (),
) -> Measurement:
    """Turn predictions into a measurement; `measure` and a study's stored predictions both end here.

    Args:
        y: true classes [N].
        seen: the model's predictions.
        target: the backdoor's target class.
        control: predictions of the control arm under the same trigger.
        undefended: clean predictions before the defence.
        seeds: training runs behind the number.
        flags: flags raised on the way here.
    """
    raised = set(flags)
    acc, acc_interval = _share(seen.clean == y)
    asr = asr_all = base = untriggered = titg = carried = asr_interval = carried_interval = None
    n = 0
    if target is not None and seen.triggered is not None:
        others = y != target
        n = int(others.sum())
        hits = seen.triggered == target
        asr, asr_interval = _share(hits[others])
        asr_all, _ = _share(hits)
        untriggered, _ = _share((seen.clean == target)[others])
        titg = asr_all - _share(seen.clean == target)[0]
        if control is None or control.triggered is None:
            raised.add("no-control")
        else:
            theirs = control.triggered == target
            base, _ = _share(theirs[others])
            carried, carried_interval = _paired(hits[others], theirs[others])
            if _paired(theirs[others], (control.clean == target)[others])[0] >= CONTROL_FIRES:
                raised.add("control-fires")
        if n < FEW_IMAGES:
            raised.add("few-images")
        if untriggered > COLLAPSED:
            raised.add("collapsed")
    if undefended is not None and _paired(undefended == y, seen.clean == y)[0] > ACC_FLOOR:
        raised.add("acc-floor")
    if seeds == 1:
        raised.add("one-seed")
    return Measurement(
        acc, asr, asr_all, base, untriggered, titg, carried, n,
        tuple(name for name in MEANING if name in raised), acc_interval, asr_interval, carried_interval,
    )  # fmt: skip


def carry_over(student: float | None, teacher: float | None) -> float | None:
    """Carry-over rate: carried(student) / carried(teacher); None where the teacher carries under 5 points."""
    if student is None or teacher is None or teacher < TEACHER_CARRIES:
        return None
    return student / teacher


LEAST = {"titg": -1.0, "carried": -1.0}  # differences of shares; every other rate begins at 0


def over_seeds(values: Sequence[float], rate: str = "") -> tuple[float, Interval | None]:
    """Mean and 95 % t-interval over seeds; no interval for a single one.

    Args:
        values: one number a seed.
        rate: the name of a measured rate, whose interval then ends where its range does (0..1, or −1..1).
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    reach = float(stats.t.ppf(0.975, n - 1)) * spread
    low, high = mean - reach, mean + reach
    return mean, (max(low, LEAST.get(rate, 0.0)), min(high, 1.0)) if rate else (low, high)


def _share(hits: Tensor) -> tuple[float, Interval]:
    n = len(hits)
    if n == 0:
        raise BadInput("no image of another class than the target is left to trigger; give more test images.")
    k = int(hits.sum())
    return k / n, wilson(k, n)


@functools.lru_cache(4096)
def wilson(k: int, n: int) -> Interval:
    """95 % Wilson interval of k hits in n."""
    interval = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def _paired(ours: Tensor, theirs: Tensor) -> tuple[float, Interval]:
    """Difference of two shares over the same images, with Newcombe's 95 % hybrid score interval for pairs.

    Newcombe, Statistics in Medicine 17 (1998) 2635, from two Wilson intervals and the correlation φ of the pairs
    (without continuity correction); unlike the normal interval it has a width when all images agree.
    """
    n = len(ours)
    both, neither = int((ours & theirs).sum()), int((~ours & ~theirs).sum())
    mine, other = int(ours.sum()), int(theirs.sum())
    p, q = mine / n, other / n
    (p_low, p_high), (q_low, q_high) = wilson(mine, n), wilson(other, n)
    margins = mine * (n - mine) * other * (n - other)
    phi = (both * neither - (mine - both) * (other - both)) / math.sqrt(margins) if margins else 0.0
    below = (p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2
    above = (p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2
    difference = (mine - other) / n
    # a hair below 0 by rounding, where both shares are 0 or 1
    return difference, (difference - math.sqrt(max(below, 0.0)), difference + math.sqrt(max(above, 0.0)))


def _percent(value: float | None, interval: Interval | None = None) -> str:
    if value is None:
        return "–"
    if interval is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
