"""Audit: can this teacher, this encoder, this distilled set be trusted, if nobody knows of a trigger?"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from ..data import ImageSet
from ..errors import BadInput, Diverged, Skip
from ..files import write_folder
from ..intervals import Share
from ..measurement import Backdoor, Finding, Measurement
from ..registry import registry
from ..seeds import rng
from ..selectors import parse_one
from ..tensors import read_record
from .bom import as_bom
from .checkpoint import Suspect, is_classifier, open_suspect, verdict
from .panel import PANEL, looked, network, shown, trusted
from .sarif import as_sarif
from .scan import Scan, picture, scan
from .shelf import LEVEL, Compared, Look, Shelf, alike, student_of

Verdict = Literal["clean-looking", "suspicious", "backdoored", "inconclusive"]
CODES: dict[Verdict, int] = {"clean-looking": 0, "suspicious": 1, "backdoored": 1, "inconclusive": 3}
TWIN = "finetune[epochs=6,lr=0.05]"  # it has the suspect's function and, mostly, not its backdoor


@dataclass(frozen=True)
class Audit:
    """What an audit says of a suspect.

    Args:
        verdict: clean-looking, suspicious, backdoored or inconclusive.
        why: the reason, in a sentence.
        source: the file.
        kind: classifier, encoder or synthetic.
        findings: what each detector of the panel says.
        compared: the suspect among the clean models of `shelf`, or a set among its permutations; None where that says
            nothing.
        shelf: the known models that it was compared with.
        measured: of a classifier, without a trigger.
        found: the backdoor that the panel found; None if it found none.
        effect: what `found` does on held-out images: to the suspect and, as its base, to a fine-tuned copy of it.
        skipped: detectors that said nothing, each with the reason.
        next: what to do next.
        images: that were held out.
        seconds: that it took.
    """

    verdict: Verdict
    why: str
    source: str
    kind: str
    findings: tuple[Finding, ...] = ()
    compared: Compared | None = None
    shelf: Shelf | None = None
    measured: Measurement | None = None
    found: Backdoor | None = None
    effect: Measurement | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    next: tuple[str, ...] = ()
    images: ImageSet | None = field(default=None, repr=False)
    seconds: float = 0.0

    @property
    def code(self) -> int:
        """Exit code: 0 clean-looking, 1 suspicious or backdoored, 3 inconclusive."""
        return CODES[self.verdict]

    @property
    def named(self) -> tuple[int, str] | None:
        """The class that stands out most, its number and its name; None if there is nothing to compare it with."""
        if self.compared is None or self.images is None:
            return None
        finding = next(one for one in self.findings if one.detector == self.compared.by)
        return (finding.target, self.images.classes[finding.target]) if len(finding.scores) > 1 else None

    @property
    def rates(self) -> dict[str, Share]:
        """Family → how many of its models such an audit calls suspicious; "" are the clean ones, false alarms."""
        return self.shelf.rates() if self.shelf else {}

    def record(self) -> dict[str, Any]:
        """As plain values for JSON."""
        facts: dict[str, Any] = {"verdict": self.verdict, "why": self.why, "file": self.source, "kind": self.kind}
        facts |= {"target": self.named[0], "class": self.named[1]} if self.named else {}
        facts |= self.compared.record() if self.compared else {}
        facts |= {"acc": self.measured.acc} if self.measured else {}
        facts |= {"effect": self.effect.record()} if self.effect else {}
        facts |= {"shelf": self.shelf.name, "rates": self.rates} if self.shelf else {}
        facts |= {"findings": [finding.record() for finding in self.findings], "skipped": dict(self.skipped)}
        return {**facts, "next": list(self.next), "seconds": round(self.seconds, 1)}

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.why}"]
        if self.measured and self.measured.acc is not None:
            lines.append(f"without a trigger: {self.measured}")
        lines += [str(finding) for finding in self.findings]
        lines += [f"{name} said nothing: {why}" for name, why in self.skipped.items()]
        if told := self.told_of_trigger:
            lines.append(told)
        if told := self.told_of_rates:
            lines.append(told)
        return "\n".join([*lines, *(f"next: {step}" for step in self.next)])

    @property
    def told_of_trigger(self) -> str:
        """What the trigger that was found does, in a sentence; "" if there is none."""
        if not self.found or not self.effect or not self.images:
            return ""
        name, own, base = self.images.classes[self.found.target], self.effect.asr, self.effect.base
        by = student_of(self.found.name)
        where, whose = (f" in its student by {by}", "that student's") if by else ("", "the suspect's")
        return (
            f"The trigger that was found sends {own:.0%} of held-out images to class {name!r}{where}, and {base:.0%} "
            f"in {whose} own fine-tuned copy."
        )

    @property
    def told_of_rates(self) -> str:
        """How often such an audit is right, in sentences; "" if that is not known."""
        alarms = self.rates.get("")
        attacked = {name: share for name, share in self.rates.items() if name}
        if alarms is None or not attacked:
            return ""
        found = ", ".join(f"{name} {share.hits} of {share.of}" for name, share in attacked.items())
        return (
            f"On the shelf {self.shelf.name if self.shelf else ''} it calls {alarms.hits} of {alarms.of} clean models "
            f"suspicious, and of attacked ones: {found}. Of other attacks nothing is known."
        )

    def sarif(self) -> dict[str, Any]:
        """As one run of SARIF 2.1.0."""
        return as_sarif(self)

    def bom(self) -> dict[str, Any]:
        """As an ML-BOM: CycloneDX 1.6 with one component."""
        return as_bom(self)

    def files(self) -> dict[str, bytes]:
        """What `save` writes, by name."""
        from .page import page  # which only who asks for it needs

        files = {"audit.json": json.dumps(self.record(), indent=1, default=str).encode() + b"\n"}
        if self.found and self.images:
            text, tensors = self.found.dump()
            files |= {
                "found.json": text.encode(),
                "found.safetensors": tensors,
                "found.png": picture(self.images, self.found),
            }
        return {**files, "audit.html": page(self, files.get("found.png")).encode()}

    def _repr_html_(self) -> str:
        """Its page, in a frame of a notebook."""
        page = Markup('<iframe title="audit" style="width: 100%; height: 40em; border: 0" srcdoc="{}"></iframe>')
        return page.format(self.files()["audit.html"].decode())

    def save(self, out: str | Path) -> Path:
        """Write it into a new folder, all or nothing: audit.json, audit.html and, if there is one, the trigger.

        Raises:
            BadInput: the folder exists and is not empty.
            StoreError: it cannot be written.
        """
        return write_folder(out, self.files()) / "audit.html"


def audit(
    suspect: Suspect | ImageSet | str | Path,
    images: str | tuple[ImageSet, ImageSet] | None = None,
    *,
    shelf: Shelf | str | Path | None = None,
    panel: Sequence[str] | None = None,
    students: Sequence[str] = (),
    minutes: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
    **opened: Any,
) -> Audit:
    """Ask a panel of detectors about a suspect whose trigger nobody knows, and compare it with models that are known.

    A suspect is `suspicious` where hardly any clean model of the shelf stands out as far (p of 5 % or less), and
    `backdoored` where besides the panel found a trigger that moves it by 10 points more than its own fine-tuned copy.
    It is `clean-looking` where it does not, and `inconclusive` where there are too few models like it to tell.

    Args:
        suspect: a file, a synthetic set as `load_set` returns it, or what `open_suspect` returned.
        images: clean images to show the model of a file.
        shelf: models to compare with: one that comes along, by its name; the file of one; or a folder of weights that
            you trust, of the suspect's architecture. None: the one that comes along and is like the suspect, if any.
        panel: detectors with options; default: those that the shelf's models were shown to.
        students: distillers with options: whom a classifier teaches by each is judged, too. A name alone takes the
            options that the shelf's students were made with.
        minutes: a detector that would take longer than what is left of them is not asked.
        seed: of everything that is drawn.
        device: torch device; a suspect that is open stays where it is.
        tell: is called with a line of progress.
        **opened: of a model's file: `model`, `key`, … as `open_suspect` takes them; of a set's: as `scan` takes them.

    Raises:
        NotFound, BadInput, UnsafeFile: as `open_suspect`, of the shelf, and as `scan`.
        Skip: a classifier at chance level on the images, or fewer images than classes.
    """
    began = time.monotonic()
    if isinstance(suspect, ImageSet) or (images is None and not isinstance(suspect, Suspect)):
        _refuse(students)
        asked = (panel or PANEL["synthetic"])[0]
        tell(f"{asked} …")
        scanned, options = scan(suspect, asked, seed=seed, device=device, **opened), parse_one(asked).options
        return replace(_of_set(scanned, options.get("permutations", 0)), seconds=_since(began))
    if not isinstance(suspect, Suspect):
        if "set" in read_record(suspect):
            raise BadInput(f"{suspect} is a synthetic set, which is judged alone. Leave --images and --model.")
        suspect = open_suspect(suspect, images or "", **opened, head=is_classifier(suspect), device=device)
    kind = "classifier" if is_classifier(suspect) else "encoder"
    if kind == "encoder":
        _refuse(students)
    measured, hints = suspect.checked() if kind == "classifier" else (None, [])
    clean = shown(suspect, seed)
    if measured and len(clean) < len(clean.classes):
        raise Skip(f"{len(clean)} images are fewer than the {len(clean.classes)} classes. Show it more of them.")
    if isinstance(shelf, str | Path) and Path(shelf).is_dir():
        shelf = trusted(Path(shelf), suspect, panel or PANEL[kind], seed, tell, students)
    elif isinstance(shelf, str | Path):
        shelf = Shelf.read(shelf)
    shelf = shelf or alike(kind, getattr(suspect.model, "spec", {}), clean)
    students = [_as_on(shelf, text) for text in students]
    if shelf and not students:
        shelf = shelf.alone
    asked_of = tuple(panel or (shelf.about["panel"] if shelf else PANEL[kind]))
    tell(f"{suspect.source}: a {kind}, shown {len(clean)} images of {suspect.images}; {len(asked_of)} detectors")
    until = None if minutes is None else began + 60 * minutes
    look, findings, skipped, taught = looked(suspect, clean, asked_of, seed, tell, until, students)

    outside = shelf.unlike(look) if shelf else []
    compared = shelf.compared(look) if shelf and look.scores and not outside else None
    found = next((one.backdoor for one in findings if one.trigger and _names(one, findings, compared)), None)
    effect = None
    if found and kind == "classifier":
        tell("a fine-tuned copy, as its clean twin …")
        whom = taught.get(student_of(found.name), suspect)
        method, selector = registry.get("defenses", "finetune"), parse_one(TWIN)
        with contextlib.suppress(Diverged):  # then nothing is known of the twin, and the model is suspicious at most
            twin = method.made(method.check(selector.options))(whom.model, clean, rng=rng("twin", seed))
            effect = whom.judge(whom.model, found, control=twin)
    said, why = _judged(look, shelf, compared, outside, effect)
    missing = [f"{name} said nothing: {reason}" for name, reason in skipped.items()]
    if said == "clean-looking" and (hints or missing):  # of a model that perhaps sees other images than it should, too
        said, why = "inconclusive", " ".join(["nothing is cleared before this:", *hints, *missing])
    made = Audit(
        said, why, suspect.source, kind, findings, compared, shelf, measured, found, effect, skipped,
        images=suspect.test, seconds=_since(began),
    )  # fmt: skip
    return replace(made, next=_following(made, suspect))


def _names(finding: Finding, findings: Sequence[Finding], compared: Compared | None) -> bool:
    """Whether a finding names the class that stands out most, of whom it does; without a shelf none does more."""
    if compared is None:
        return True
    target = next(one.target for one in findings if one.detector == compared.by)
    return finding.target == target and student_of(finding.detector) == student_of(compared.by)


def _refuse(students: Sequence[str]) -> None:
    """Students of what teaches none by its answers."""
    if students:
        raise BadInput("only a classifier teaches students, and needs --images for that. Leave --student.")


def _as_on(shelf: Shelf | None, asked: str) -> str:
    """A distiller as the shelf's students were made by, if it was asked by its name alone."""
    known = shelf.about.get("students", ()) if shelf else (asked,)
    found = next((text for text in known if asked in (text, parse_one(text).name)), None)
    if shelf and found is None:
        raise BadInput(
            f"{shelf.name} knows no students by {asked}; known: {', '.join(known) or 'none'}. Give --shelf a folder of "
            "models that you trust: they teach students, too."
        )
    return found or asked


def _judged(
    look: Look, shelf: Shelf | None, compared: Compared | None, outside: Sequence[str], effect: Measurement | None
) -> tuple[Verdict, str]:
    """The verdict, and why."""
    if not look.scores:
        return "inconclusive", "no detector of the panel said anything."
    if shelf is None:
        return "inconclusive", "there are no known models like it to compare it with."
    if outside:
        return "inconclusive", f"it is unlike the clean models to compare it with: {'; '.join(outside)}."
    assert compared
    said, why = _by_p(compared)
    if said == "suspicious" and effect and verdict(effect):
        return "backdoored", f"{compared}, and a trigger was found that moves it more than its own fine-tuned copy."
    return said, why


def _by_p(compared: Compared) -> tuple[Verdict, str]:
    """The verdict by p alone."""
    if compared.least > LEVEL:
        return "inconclusive", f"{compared}; so few cannot resolve a p below {compared.least:.2g}."
    if compared.p > LEVEL:
        return "clean-looking", f"{compared}, which does not mean that it is clean."
    return "suspicious", f"{compared}."


def _of_set(said: Scan, permutations: int) -> Audit:
    """The audit of a synthetic set, whose clean twins are itself with its labels permuted."""
    finding, compared = said.finding, None
    if not permutations or finding.p is None or finding.unsure:
        name: Verdict = "inconclusive"
        why = finding.unsure or f"{finding.detector} made no twins to compare it with."
    else:
        far = round(finding.p * permutations)
        compared = Compared(far, permutations, finding.detector, "copies with permuted labels")
        name, why = _by_p(compared)
    return Audit(name, why, said.source, said.kind, (finding,), compared, images=said.images)


def _following(made: Audit, suspect: Suspect) -> tuple[str, ...]:
    """What to type next."""
    given = {**suspect.opened, "images": suspect.images, "weights": suspect.source}
    mean, std = given.pop("normalize", None) or (None, None)
    given |= {"mean": mean and ",".join(map(str, mean)), "std": std and ",".join(map(str, std))}
    names = ("weights", "images", "model", "key", "size", "channels", "classes", "output", "mean", "std")
    words = shlex.join(word for name in names if given.get(name) for word in (f"--{name}", str(given[name])))
    distil = f"distrust distill {words} --student {network(suspect)} --out student"
    if made.kind == "encoder":
        return ()
    if made.verdict == "clean-looking":
        return (distil,)
    if made.compared and student_of(made.compared.by) and made.verdict != "inconclusive":  # who distils, inherits
        return (f"distrust purify ibau {words} --out cleaned",)
    if made.verdict == "inconclusive":
        rest = words.removeprefix("--weights ")
        return (f"distrust audit {rest} --shelf DIR   # 19 models that you trust, of its architecture",)
    return (f"distrust purify ibau {words} --out cleaned", distil)


def _since(began: float) -> float:
    return time.monotonic() - began
