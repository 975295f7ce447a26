"""Commands on a checkpoint, ours or a stranger's: measure it, purify it, distil from it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import Key, Plugins, command
from .face import Face

if TYPE_CHECKING:
    from ..auditing.checkpoint import Suspect
    from ..measurement import Backdoor

Weights = Annotated[Path | None, typer.Option(help="Checkpoint: .safetensors, or .pt that holds only tensors.")]
Model = Annotated[str | None, typer.Option(help="wrn16-1, my.py:factory, timm:NAME …; not needed for our own files.")]
Images = Annotated[str, typer.Option(help="Directory, .npz, hub:owner/name, or a name such as digits.")]
Size = Annotated[int | None, typer.Option(help="Resize images to this side in pixels.")]
Channels = Annotated[int | None, typer.Option(min=1, max=3, help="Convert images to 1 or 3 channels.")]
Mean = Annotated[str | None, typer.Option(help="Mean per channel, 0..1, of a model trained on normalised images.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation per channel, 0..1; goes with --mean.")]
Trigger = Annotated[str, typer.Option(help="patch:grid, patch:white:3, blend:FILE, sig, or trigger.json.")]
AskedTrigger = Annotated[
    str | None, typer.Option("--trigger", help="Measure before and after: patch:grid, sig, trigger.json …")
]
Target = Annotated[int | None, typer.Option(help="Class number that the trigger leads to.")]
Control = Annotated[Path | None, typer.Option(help="Weights of the same model, trained without the attack.")]
Fraction = Annotated[float, typer.Option(help="Share of the training split that the defender has, 0..1.")]
Out = Annotated[Path, typer.Option(help="New folder for weights, record and model card.")]


# Which checkpoint, and on which images: what every command here takes.
CHECKPOINT: dict[str, tuple[Any, Any]] = {
    "images": (Images, inspect.Parameter.empty), "weights": (Weights, None), "model": (Model, None),
    "key": (Key, None), "size": (Size, None), "channels": (Channels, None), "mean": (Mean, None),
    "std": (Std, None), "target": (Target, None), "plugin": (Plugins, []),
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a command line says of a checkpoint; `open` does it, after the command has checked its own options."""

    images: str
    weights: Path | None
    model: str | None
    key: str | None
    size: int | None
    channels: int | None
    mean: str | None
    std: str | None
    target: int | None
    plugin: list[Path]

    def open(self, trigger: str | None, head: bool = True) -> tuple[Suspect, Backdoor | None]:
        """The checkpoint, or without `head` the encoder, with its images, and the backdoor, if a trigger is named."""
        from ..auditing.checkpoint import make_backdoor, open_suspect

        suspect = open_suspect(
            self.weights, self.images, model=self.model, key=self.key, size=self.size, channels=self.channels,
            normalize=_statistics(self.mean, self.std), head=head,
        )  # fmt: skip
        return suspect, make_backdoor(trigger, self.target, suspect.test.classes) if trigger else None


def on_checkpoint(body: Callable[..., int]) -> Callable[..., int]:
    """Give `body(face, asked, …)` the options of `CHECKPOINT`, bundled."""

    @functools.wraps(body)
    def call(face: Face, **given: Any) -> int:
        from ..registry import registry

        asked = Asked(**{name: given.pop(name) for name in CHECKPOINT})
        for file in asked.plugin:
            registry.add(file)
        return body(face, asked, **given)

    face, _, *own = inspect.signature(body, eval_str=True).parameters.values()
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in CHECKPOINT.items()
    ]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    call.__signature__ = inspect.Signature([face, *own, *shared])  # type: ignore[attr-defined]
    return call


def _statistics(mean: str | None, std: str | None) -> tuple[list[float], list[float]] | None:
    """`--mean 0.49,0.48,0.45 --std 0.25,0.24,0.26` as numbers."""
    if mean is None and std is None:
        return None
    try:
        return tuple([float(word) for word in (text or "").split(",")] for text in (mean, std))  # type: ignore[return-value]
    except ValueError:
        raise typer.BadParameter("--mean and --std go together: --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26") from None


@command
@on_checkpoint
def measure(
    face: Face,
    asked: Asked,
    trigger: Trigger,
    control: Control = None,
) -> int:
    """Measure ACC and ASR of a checkpoint under a trigger. Exit code 1: the trigger moves the model."""
    from ..auditing.checkpoint import verdict
    from ..measurement import measure as measure_model

    device = face.machine()
    suspect, backdoor = asked.open(trigger)
    twin = replace(asked, weights=control).open(None)[0].model.to(device) if control else None
    found = measure_model(suspect.model.to(device), suspect.test, backdoor, control=twin)
    target = backdoor and backdoor.target
    facts = {"model": suspect.source, "images": asked.images, "trigger": trigger, "target": target}
    face.show({**facts, **found.record()}, str(found), *face.flags(found.flags))
    return int(verdict(found))


@command
@on_checkpoint
def purify(
    face: Face,
    asked: Asked,
    method: Annotated[str, typer.Argument(help="A defence, e.g. nad or 'nad[beta=0,lr=0.05]'.")],
    out: Out,
    fraction: Fraction = 0.05,
    trigger: AskedTrigger = None,
) -> int:
    """Clean a checkpoint with a defence and a share of clean images; measures before and after if told the trigger.

    A defence of encoders opens an encoder and needs no labels: a folder of images will do. Where there are labels, a
    linear head on the features is measured.
    """
    from ..auditing.checkpoint import write_artefact
    from ..errors import BadInput
    from ..measurement import measure as measure_model
    from ..registry import registry
    from ..seeds import rng
    from ..selectors import parse_one
    from ..training import fit_head

    face.free(out)
    device = face.machine()
    selector = parse_one(method)
    defense = registry.get("defenses", selector.name)
    if defense.mark.on not in ("classifier", "encoder"):
        raise BadInput(
            f"{selector.name} works on images; purify cleans a model. Name it on a study's defense axis, or call "
            f"distrust.defenses.{selector.name}."
        )
    options = defense.check(selector.options)
    encoder = defense.mark.on == "encoder"
    suspect, backdoor = asked.open(trigger, head=not encoder)
    clean = suspect.roles(fraction, face.seed).clean
    face.say(f"{method} on {len(clean)} clean images of {suspect.train.name}")
    before = suspect.model.to(device)
    with face.loop(method):
        after = defense.made(options)(before, clean, rng=rng("defense", face.seed))
    facts: dict[str, Any] = {"method": selector.text, "images": asked.images, "clean": len(clean), "seed": face.seed}
    said: list[str] = []
    flags: list[str] = []
    if not encoder or len(suspect.train.classes) > 1:  # images without classes leave nothing to measure
        pair = [before, after]
        if encoder:
            pair = [fit_head(model, suspect.train, rng=rng("head", face.seed)) for model in pair]
        was = measure_model(pair[0], suspect.test, backdoor)
        found = measure_model(pair[1], suspect.test, backdoor, undefended=pair[0])
        facts |= {"before": was.record(), "after": found.record()}
        said, flags = [f"before: {was}", f"after:  {found}"], face.flags(found.flags)
    facts["weights"] = str(write_artefact(out, after, suspect.taint, {**facts, "options": options}))
    return face.show(facts, *said, facts["weights"], *flags)


@command
@on_checkpoint
def distill(
    face: Face,
    asked: Asked,
    student: Annotated[str, typer.Option(help="Model name of the student, e.g. wrn16-1.")],
    out: Out,
    distiller: Annotated[str, typer.Option(help="kd, at, or 'kd[temperature=2]'.")] = "kd",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not for digits or signs.")] = True,
    crop: Annotated[int, typer.Option(min=0, help="Shift images by up to so many pixels.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate, the maximum of the one-cycle schedule.")] = 0.1,
    trigger: AskedTrigger = None,
) -> int:
    """Distil a student from a teacher's checkpoint on clean images; measures both if told a trigger."""
    from ..auditing.checkpoint import verdict, write_artefact
    from ..measurement import measure as measure_model
    from ..models import model as make_model
    from ..registry import registry
    from ..seeds import rng
    from ..selectors import parse_one
    from ..training import distill as distill_model

    face.free(out)
    device = face.machine()
    selector = parse_one(distiller)
    method = registry.get("distillers", selector.name)
    loss = method.made(method.check(selector.options))
    teacher, backdoor = asked.open(trigger)
    options: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "flip": flip, "crop": crop}
    start = make_model(student, teacher.train, rng=rng("student", "start", face.seed))
    with face.loop(f"{student} by {selector.text}"):
        learnt = distill_model(
            start, teacher.model, teacher.train, loss=loss, rng=rng("student", face.seed), device=device, **options
        )
    facts: dict[str, Any] = {"distiller": selector.text, "student": student, "images": asked.images, "seed": face.seed}
    taught = measure_model(teacher.model, teacher.test, backdoor)
    found = measure_model(learnt, teacher.test, backdoor)
    facts |= {"teacher_measured": taught.record(), "student_measured": found.record()}
    facts["weights"] = str(write_artefact(out, learnt, teacher.taint, {**facts, **options}))
    lines = [f"teacher: {taught}", f"student: {found}", facts["weights"]]
    face.show(facts, *lines, *face.flags(found.flags))
    return int(verdict(found))
