"""Finding: what a detector says of one suspect."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from ..registry import registry
from .backdoor import Backdoor

ROWS = 10  # classes that a notebook is shown


@dataclass(frozen=True)
class Finding:
    """A detector's answer.

    Args:
        detector: its name.
        score: how suspicious; higher is more, comparable among suspects of one kind only.
        scores: the same for every class, [K].
        target: the most suspicious class; 0 where there are none.
        p: share of the detector's own null that scores as high, 0..1; None where it has none.
        notes: JSON-able facts for a reader.
        trigger: of a detector that searches for one, what it found for the target: the options of `triggers.masked`,
            `pattern` float32 [C,H,W] and `mask` [1,H,W], in 0..1; or of `triggers.added`, `perturbation` [C,H,W] in
            -1..1. No record holds it, nor what follows.
        unsure: why the score says nothing, and what to do; "" where it does.
    """

    detector: str
    score: float
    scores: tuple[float, ...]
    target: int
    p: float | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    trigger: Mapping[str, Tensor] | None = dataclasses.field(default=None, repr=False, compare=False)
    unsure: str = dataclasses.field(default="", repr=False, compare=False)

    @classmethod
    def of(cls, detector: str, scores: Tensor, **more: Any) -> Finding:
        """The finding whose score is the highest of a class [K]."""
        values = scores.double().cpu()
        target = int(values.argmax())
        return cls(detector, float(values[target]), tuple(values.tolist()), target, **more)

    @property
    def backdoor(self) -> Backdoor | None:
        """What the detector found, to be measured as any other backdoor; None if it found nothing."""
        if self.trigger is None:
            return None
        kind = "added" if "perturbation" in self.trigger else "masked"
        return Backdoor(registry.get("triggers", kind).call(**self.trigger), self.target, name=self.detector)

    def __str__(self) -> str:
        chance = f", p = {self.p:.2f}" if self.p is not None else ""
        named = f", most suspicious class {self.target}" if len(self.scores) > 1 else ""
        return f"{self.detector}: score {self.score:.3g}{named}{chance}"

    def _repr_html_(self) -> str:
        """For a notebook: the score of every class, the most suspicious first, and the trigger, if it found one."""
        order = sorted(range(len(self.scores)), key=lambda k: -self.scores[k])[:ROWS]
        rows = Markup("").join(Markup("<tr><td>{}</td><td>{:.3g}</td></tr>").format(k, self.scores[k]) for k in order)
        head = Markup("<b>{}</b>").format(str(self))
        table = Markup("<table><tr><th>class</th><th>score</th></tr>{}</table>").format(rows)
        found = self.backdoor
        return head + (table if len(self.scores) > 1 else "") + (Markup(found._repr_html_()) if found else "")

    @classmethod
    def made(cls, record: dict[str, Any]) -> Finding:
        """What `record` gave, as a finding again."""
        return cls(**{**record, "scores": tuple(record["scores"])})

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        plain = {name: value for name, value in vars(self).items() if name not in ("trigger", "unsure")}
        return copy.deepcopy(plain) | {"scores": list(self.scores)}


def outlyingness(values: Tensor) -> Tensor:
    """How far each of [K] values lies above their median, in robust standard deviations (1.4826 · MAD)."""
    centred = values - values.median()
    spread = 1.4826 * centred.abs().median()
    return centred / spread.clamp(min=torch.finfo(values.dtype).eps)
