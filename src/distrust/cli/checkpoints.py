"""Commands on a file that somebody hands us: measure it, purify it, distil from it, scan it."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import distrust as dt

from ..files import free
from .command import Face, Key, command

Trigger = Annotated[str | None, typer.Option(help="patch:grid, patch:white:3, blend:FILE, sig, or a trigger's file.")]
AskedTrigger = Annotated[
    str | None, typer.Option("--trigger", help="Measure before and after: patch:grid, sig, a file …")
]
Out = Annotated[Path, typer.Option(help="New folder for weights, record and model card.")]


@dataclass(frozen=True, kw_only=True)
class Network:
    """How a model's file is opened."""

    model: Annotated[str | None, typer.Option(help="wrn16-1, my.py:factory, timm:NAME …, unless it is ours.")] = None
    key: Key = None
    size: Annotated[int | None, typer.Option(help="Resize images to this side in pixels.")] = None
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="Convert images to 1 or 3 channels.")] = None
    mean: Annotated[str | None, typer.Option(help="Mean per channel, 0..1, that the model was trained with.")] = None
    classes: Annotated[
        str | None, typer.Option(help="File of the model's classes, one a line, or lines folder = class; or: own.")
    ] = None
    output: Annotated[str | None, typer.Option(help="Which of several outputs is the logits: a name or index.")] = None
    std: Annotated[str | None, typer.Option(help="Standard deviation per channel, 0..1; goes with --mean.")] = None

    def opened(self) -> dict[str, Any]:
        """As `dt.open_suspect` takes them."""
        opened = {name: value for name, value in vars(self).items() if name not in ("mean", "std", "weights", "target")}
        if self.mean is self.std is None:
            return opened
        try:
            normalize = tuple([float(word) for word in (text or "").split(",")] for text in (self.mean, self.std))
        except ValueError:
            raise typer.BadParameter(
                "--mean and --std go together: --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26"
            ) from None
        return {**opened, "normalize": normalize}

    def words(self) -> list[str]:
        """The options as they were typed."""
        fields = (field.name for field in dataclasses.fields(Network))
        return [word for n in fields if (v := getattr(self, n)) is not None for word in (f"--{n}", str(v))]


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Network):
    """A checkpoint, on which images, and the class that a trigger leads to."""

    images: Annotated[str, typer.Option(help="Directory, .npz, hub:owner/name, or a name such as digits.")]
    weights: Annotated[Path | None, typer.Option(help="A .safetensors, or a .pt that holds only tensors.")] = None
    target: Annotated[int | None, typer.Option(help="Class number that the trigger leads to.")] = None


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How the pixels and labels of a synthetic set's file are read."""

    units: Annotated[Literal["auto", "pixels", "normalised"], typer.Option(help="Of a set's pixels.")] = "auto"
    statistics: Annotated[str | None, typer.Option(help="By which they were normalised: cifar10, svhn …")] = None
    labels: Annotated[Literal["auto", "logits"], typer.Option(help="Of a set's soft labels.")] = "auto"
    experiment: Annotated[int | None, typer.Option(help="Which of the sets in a file, 0 the first.")] = None


@command
def measure(
    face: Face,
    asked: Checkpoint,
    trigger: Trigger = None,
    control: Annotated[Path | None, typer.Option(help="Weights of the same model, trained without the attack.")] = None,
) -> int:
    """Measure ACC and ASR of a checkpoint under a trigger. Exit code 1: the trigger moves the model.

    Exit code 3: the model is no classifier of these images, so that nothing is cleared; the flag says why. So it is
    without --trigger, where only ACC is measured.
    """
    if trigger is None and (asked.target is not None or control):
        raise typer.BadParameter("--target and --control say something of a --trigger: --trigger patch:grid")
    suspect = dt.open_suspect(asked.weights, **asked.opened(), device=face.device)
    backdoor = suspect.backdoor(trigger, asked.target)
    found = suspect.measure(backdoor, control=control)
    target = backdoor.target if backdoor else None
    name = None if target is None else suspect.test.classes[target]
    facts: dict[str, Any] = {
        "model": suspect.source,
        "images": asked.images,
        "trigger": trigger,
        "target": target,
        "class": name,
    }
    line = f"class {target} is {name!r}" if name not in (None, str(target)) else ""
    line = line if backdoor else "No trigger was named, and so nothing is judged; distrust scan searches for one."
    hints = dt.hints(suspect, found)
    facts |= {"hints": hints} if hints else {}
    face.show({**facts, **found.record()}, str(found), line, *hints, flags=found.flags)
    code = _code(found)
    return 3 if code == 0 and (hints or not backdoor) else code  # a network that sees other images is not cleared


@command
def purify(
    face: Face,
    asked: Checkpoint,
    method: Annotated[str, typer.Argument(help="A defence, e.g. nad or 'nad[beta=0,lr=0.05]'.")],
    out: Out,
    fraction: Annotated[
        float | None, typer.Option(help="Share of the training split that the defender has, 0..1; default: all of it.")
    ] = None,
    keys: Annotated[
        Literal["own", "original"],
        typer.Option(help="Names of tensors: the network's own, or the original file's."),
    ] = "own",
    encoder: Annotated[
        bool, typer.Option("--encoder", help="The file is an encoder; one that Distrust wrote says so itself.")
    ] = False,
    trigger: AskedTrigger = None,
) -> int:
    """Clean a checkpoint with a defence on clean images; measures before and after if told the trigger.

    A rate that is not named, as in 'nad[lr=0.02]', is chosen on a fifth of the images, which the defence does not see:
    up to four are tried. A defence of encoders opens an encoder and needs no labels: a folder of images will do. Where
    there are labels, a linear head on the features is measured. Exit code 3: the defence destroyed the model, or
    nothing could be judged of it before.
    """
    free(out)
    if keys == "original" and asked.weights is None:
        raise typer.BadParameter("--keys original takes the names of a file: it goes with --weights.")
    with face.loop(method):
        made = dt.purify(
            method, asked.weights, fraction=fraction, encoder=encoder, trigger=trigger, target=asked.target,
            seed=face.seed, tell=face.say, device=face.device, **asked.opened(),
        )  # fmt: skip
    return _written(face, made, out, keys)


@command
def distill(
    face: Face,
    asked: Checkpoint,
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
    free(out)
    with face.loop(f"{student} by {distiller}"):
        made = dt.teach(
            student, asked.weights, distiller=distiller, epochs=epochs, batch_size=batch_size, flip=flip, crop=crop,
            lr=lr, trigger=trigger, target=asked.target, seed=face.seed, device=face.device, **asked.opened(),
        )  # fmt: skip
    _written(face, made, out)
    return _code(made.after) if made.after else 0


def _written(face: Face, made: dt.Made, out: Path, keys: Literal["own", "original"] = "own") -> int:
    weights = str(made.save(out, keys))
    face.show({**made.facts, "weights": weights}, *made.text.split("\n"), weights, flags=made.flags)
    return 0 if made.after is None or dt.judged(made.after) else 3


def _code(found: dt.Measurement) -> int:
    return int(dt.verdict(found)) if dt.judged(found) else 3


@command
def scan(
    face: Face,
    asked: Network,
    pixels: Pixels,
    file: Annotated[Path, typer.Argument(help="A synthetic set or, with --images, a checkpoint.")],
    detector: Annotated[
        str | None, typer.Option(help="patch_probe[permutations=19] for a set, neural_cleanse, decree for an encoder.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="A score from which on it is a finding.")] = None,
    images: Annotated[str | None, typer.Option(help="Clean images to show a model: a directory, cifar10 …")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the trigger that was found, and a picture.")] = None,
) -> int:
    """Ask a detector about a synthetic set or a model. Exit code 1: its score reaches the threshold, or p is 0.

    With neither a threshold nor permutations a score says nothing by itself, and the exit code is 3; so it is where the
    model is at chance level on the images.
    """
    if out:
        free(out)
    with face.loop(detector or f"scan {file}"):
        said = dt.scan(
            file, detector, threshold=threshold, images=images, keep=out is not None, seed=face.seed,
            device=face.device, **vars(pixels), **asked.opened(),
        )  # fmt: skip
    facts, line = said.record(), ""
    if out and said.finding.backdoor:
        found = said.save(out)
        words = ["distrust", "measure", "--weights", file, *asked.words(), "--images", images, "--trigger", found]
        facts |= {"trigger": str(found), "next": shlex.join(map(str, words))}
        line = f"found: {found}, and a picture beside it. Measure it: {facts['next']}"
    elif out:
        line = f"No patch sent all images to one class, so that nothing is kept in {out}."
    face.show(facts, *str(said).split("\n"), line)
    return int(said.found) if said.judged else 3
