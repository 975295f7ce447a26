"""Shelf: models of which it is known whether somebody attacked them, and what a panel of detectors says of each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import BadInput, NotFound
from ..intervals import Share

LEVEL = 0.05  # of p, at which a suspect is called suspicious
SLACK = 1.0  # of a shelf's range: so far beyond it a model is still like it


@dataclass(frozen=True)
class Look:
    """What a panel says of one model.

    Args:
        scores: detector, or detector@distiller of a student of the model → how suspicious.
        named: detector → the most suspicious class' number.
        like: what a model is like that has nothing to do with a backdoor: `acc`, `confidence`, both 0..1, `weights`;
            `acc@distiller` of its student.
        attack: of one that was attacked, by what; "" of a clean one.
        target: of the attack.
        asr: its success rate, 0..1.
        inherited: distiller → its success rate in the student that the model taught, 0..1.
        seed: of the run that made the model.
    """

    scores: Mapping[str, float]
    named: Mapping[str, int] = field(default_factory=dict)
    like: Mapping[str, float] = field(default_factory=dict)
    attack: str = ""
    target: int | None = None
    asr: float | None = None
    inherited: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


class Compared(NamedTuple):
    """A suspect among so many clean ones."""

    far: int  # how many of them stand out as far as the suspect
    of: int  # how many there are
    by: str  # the detector by which the suspect stands out most
    what: str  # they are
    stands: float | None = None  # T of the suspect, where they were compared by one

    @property
    def p(self) -> float:
        """(1 + far) / (of + 1): exact, where the suspect is as clean as they are."""
        return (1 + self.far) / (1 + self.of)

    @property
    def least(self) -> float:
        """The smallest p that so many can give."""
        return 1 / (1 + self.of)

    @property
    def believed(self) -> float:
        """The most that p makes of even odds of a backdoor: 1/2 up to 1, and 1/2 of a p above 1/e.

        1 / (1 + B), B = −e p ln p (Sellke, Bayarri and Berger, The American Statistician 55, 2001).
        """
        return 1 / (1 - math.e * self.p * math.log(self.p)) if self.p < 1 / math.e else 0.5

    def __str__(self) -> str:
        far, by = self.far or "none", student_of(self.by)
        whom = f" as its student by {by}" if by else ""
        return f"{far} of {self.of} {self.what} stand{'s' * (self.far < 2)} out as far{whom} (p = {self.p:.2g})"

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        facts = {"p": self.p, "least_p": self.least, "believed": self.believed}
        return {**facts, "as_far": self.far, "of": self.of, "by": self.by}


@dataclass(frozen=True)
class Shelf:
    """Looks at known models.

    Args:
        name: what it is called.
        looks: one a model.
        about: which images, how many of them the panel saw, with which options.
    """

    name: str
    looks: tuple[Look, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Shelf:
        """A shelf from its file, or one that is bundled, by its name.

        Raises:
            NotFound, BadInput: there is none, or it is none.
        """
        file = Path(path)
        try:
            text = (file if file.is_file() else _bundled(str(path))).read_text()
            record = json.loads(text)
            return cls(record["name"], tuple(Look(**look) for look in record["looks"]), record["about"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is no shelf ({type(error).__name__}: {error}).") from None

    def record(self) -> dict[str, Any]:
        """As plain values for JSON; `read` reads them."""
        return {"name": self.name, "about": dict(self.about), "looks": [asdict(look) for look in self.looks]}

    @property
    def clean(self) -> tuple[Look, ...]:
        """Models that nobody attacked."""
        return tuple(look for look in self.looks if not look.attack)

    @property
    def alone(self) -> Shelf:
        """The same models, of whose students nothing is said: what a suspect is compared with that teaches none."""

        def own(facts: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in facts.items() if not student_of(name)}

        looks = (replace(k, scores=own(k.scores), named=own(k.named), like=own(k.like)) for k in self.looks)
        return replace(self, looks=tuple(looks))

    def compared(self, suspect: Look, clean: Sequence[Look] | None = None) -> Compared:
        """The suspect among the clean ones, by what all detectors say together.

        For each detector z = (score − median) / (1.4826 · MAD), both over the suspect and the clean ones together; a
        model's T is the sum of its z above 0: evidence adds up, and who sees nothing takes nothing away. All N + 1 are
        treated alike, so p is exact where the suspect is as clean as they.

        Raises:
            BadInput: the shelf has no clean model, or lacks a detector that the suspect was shown to.
        """
        others = self.clean if clean is None else clean
        if not others:
            raise BadInput(f"{self.name} has no clean model to compare with.")
        if lacking := [name for name in suspect.scores if any(name not in look.scores for look in others)]:
            raise BadInput(f"{self.name} does not know {', '.join(lacking)}.")
        z = np.stack([_far([look.scores[name] for look in (suspect, *others)]) for name in suspect.scores])
        far = z.clip(0).sum(0)  # [N + 1]
        by = [*suspect.scores][int(z[:, 0].argmax())]
        what = f"clean models of {self.name}"
        return Compared(int((far[1:] >= far[0]).sum()), len(others), by, what, float(far[0]))

    def unlike(self, suspect: Look, clean: Sequence[Look] | None = None) -> list[str]:
        """By what the suspect lies outside the clean ones, so that no p says anything; a phrase each."""
        said, others = [], self.clean if clean is None else clean
        for name, value in suspect.like.items():
            known = [look.like[name] for look in others if name in look.like]
            if known:
                low, high = min(known), max(known)
                room = SLACK * (high - low)
                if not low - room <= value <= high + room:
                    said.append(f"{name} is {value:.3g}, and {low:.3g} to {high:.3g} on the shelf {self.name}")
        return said

    def judged(self, level: float = LEVEL) -> list[Judged]:
        """What an audit says of each model on the shelf that has clean ones to be compared with.

        Each is judged by the clean ones of all other seeds. Who is unlike these is not called suspicious.
        """
        found = []
        for look in self.looks:
            others = [other for other in self.clean if other.seed != look.seed]
            if others:
                compared = self.compared(look, others)
                outside = bool(self.unlike(look, others))
                called = compared.p <= max(level, compared.least) and not outside
                found.append(Judged(look, compared, outside, called))
        return found

    def rates(self, level: float = LEVEL) -> dict[str, Share]:
        """Family → how many models of it are called suspicious; "" are false alarms."""
        called: dict[str, list[bool]] = {}
        for one in self.judged(level):
            called.setdefault(family(one.look.attack), []).append(one.called)
        return {name: Share(sum(some), len(some)) for name, some in sorted(called.items())}


class Judged(NamedTuple):
    """A model of a shelf, judged as a suspect."""

    look: Look
    compared: Compared
    unlike: bool  # the clean ones that it was compared with
    called: bool  # suspicious

    @property
    def wrong(self) -> float:
        """Squared error of what is believed of it, 0..1: Brier's. Of one that is unlike, nothing is."""
        return ((0.5 if self.unlike else self.compared.believed) - bool(self.look.attack)) ** 2

    @property
    def named(self) -> bool:
        """Whether the class that stands out is the attack's target."""
        return self.look.named.get(self.compared.by) == self.look.target


def student_of(detector: str) -> str:
    """The distiller whose student was looked at, of `detector@distiller`; "" of a look at the suspect itself."""
    return detector.partition("@")[2]


def family(attack: str) -> str:
    """The attack without its options."""
    return attack.partition("[")[0]


def alike(kind: str, spec: Mapping[str, Any], images: Any) -> Shelf | None:
    """The shelf that comes along and is of models like this one, if there is one.

    Args:
        kind: classifier or encoder.
        spec: what the suspect's network is made from; empty of a stranger's.
        images: what the suspect is for.
    """
    own = {"kind": kind, "model": spec.get("name"), "shape": [*images.x.shape[1:]], "classes": len(images.classes)}
    shelves = map(Shelf.read, bundled())
    return next((shelf for shelf in shelves if all(shelf.about.get(fact) == own[fact] for fact in own)), None)


def bundled() -> list[str]:
    """Names of the shelves that come along."""
    return sorted(entry.name.removesuffix(".json") for entry in _folder().iterdir() if entry.name.endswith(".json"))


def _folder() -> Any:
    return files("distrust.auditing") / "shelves"


def _bundled(name: str) -> Any:
    if name not in (known := bundled()):
        raise NotFound(
            f"no shelf {name}. Known: {', '.join(known) or 'none'}; or give a folder of models that you trust."
        )
    return _folder() / f"{name}.json"


def _far(scores: Iterable[float]) -> np.ndarray:
    """Robust standard scores [N] of [N]; 0 where they do not differ."""
    values = np.array([*scores], float)
    centred = values - np.median(values)
    spread = 1.4826 * np.median(abs(centred)) or centred.std()
    return centred / spread if spread else centred
