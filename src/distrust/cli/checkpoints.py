"""Commands on a checkpoint, ours or a stranger's: measure it, purify it, distil from it."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from ..faces import Face
from .command import Key, Plugins, command

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


def _statistics(mean: str | None, std: str | None) -> tuple[list[float], list[float]] | None:
    """`--mean 0.49,0.48,0.45 --std 0.25,0.24,0.26` as numbers."""
    if mean is None and std is None:
        return None
    try:
        return tuple([float(word) for word in (text or "").split(",")] for text in (mean, std))  # type: ignore[return-value]
    except ValueError:
        raise typer.BadParameter("--mean and --std go together: --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26") from None


@command
def measure(
    face: Face,
    images: Images,
    trigger: Trigger,
    target: Target = None,
    weights: Weights = None,
    model: Model = None,
    key: Key = None,
    control: Control = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    plugin: Plugins = [],  # noqa: B006 - typer copies it
) -> int:
    """Measure ACC and ASR of a checkpoint under a trigger. Exit code 1: the trigger moves the model."""
    from ..files import load_weights, open_weights
    from ..measurement import measure as measure_model
    from ..methods import registry
    from ..suspect import make_backdoor, open_suspect, verdict

    for file in plugin:
        registry.add(file)
    device = face.machine()
    suspect = open_suspect(
        weights, images, model=model, key=key, size=size, channels=channels, normalize=_statistics(mean, std)
    )
    backdoor = make_backdoor(trigger, target, suspect.test.classes)
    twin = None
    if control:
        twin = load_weights(copy.deepcopy(suspect.model), open_weights(control, key), str(control)).to(device)
    found = measure_model(suspect.model.to(device), suspect.test, backdoor, control=twin)
    facts = {"model": suspect.source, "images": images, "trigger": trigger, "target": backdoor.target}
    face.show({**facts, **found.record()}, str(found), *face.flags(found.flags))
    return int(verdict(found))


@command
def purify(
    face: Face,
    method: Annotated[str, typer.Argument(help="A defence, e.g. nad or 'nad[beta=0,lr=0.05]'.")],
    images: Images,
    out: Out,
    weights: Weights = None,
    model: Model = None,
    key: Key = None,
    fraction: Fraction = 0.05,
    trigger: AskedTrigger = None,
    target: Target = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Clean a checkpoint with a defence and a share of clean images; measures before and after if told the trigger."""
    from ..measurement import measure as measure_model
    from ..methods import registry
    from ..seeds import rng
    from ..selectors import parse_one
    from ..suspect import make_backdoor, open_suspect, write_artefact

    for file in plugin:
        registry.add(file)
    face.free(out)
    device = face.machine()
    selector = parse_one(method)
    defense = registry.get("defenses", selector.name)
    options = defense.check(selector.options)
    suspect = open_suspect(
        weights, images, model=model, key=key, size=size, channels=channels, normalize=_statistics(mean, std)
    )
    backdoor = make_backdoor(trigger, target, suspect.test.classes) if trigger else None
    clean = suspect.roles(fraction, face.seed).clean
    face.say(f"{method} on {len(clean)} clean images of {suspect.train.name}")
    before = suspect.model.to(device)
    with face.loop(method):
        after = defense.call(before, clean, **options, rng=rng("defense", face.seed))
    facts: dict[str, Any] = {"method": selector.text, "images": images, "clean": len(clean), "seed": face.seed}
    was = measure_model(before, suspect.test, backdoor)
    found = measure_model(after, suspect.test, backdoor, undefended=before)
    facts |= {"before": was.record(), "after": found.record()}
    facts["weights"] = str(write_artefact(out, after, suspect.taint, {**facts, "options": options}))
    return face.show(facts, f"before: {was}", f"after:  {found}", facts["weights"], *face.flags(found.flags))


@command
def distill(
    face: Face,
    images: Images,
    student: Annotated[str, typer.Option(help="Model name of the student, e.g. wrn16-1.")],
    out: Out,
    distiller: Annotated[str, typer.Option(help="kd, at, or 'kd[temperature=2]'.")] = "kd",
    weights: Weights = None,
    model: Model = None,
    key: Key = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not for digits or signs.")] = True,
    crop: Annotated[int, typer.Option(min=0, help="Shift images by up to so many pixels.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate, the maximum of the one-cycle schedule.")] = 0.1,
    trigger: AskedTrigger = None,
    target: Target = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Distil a student from a teacher's checkpoint on clean images; measures both if told a trigger."""
    from ..imageset import Augment
    from ..measurement import measure as measure_model
    from ..methods import registry
    from ..models import model as make_model
    from ..seeds import rng
    from ..selectors import parse_one
    from ..suspect import make_backdoor, open_suspect, verdict, write_artefact
    from ..training import distill as distill_model

    for file in plugin:
        registry.add(file)
    face.free(out)
    device = face.machine()
    selector = parse_one(distiller)
    method = registry.get("distillers", selector.name)
    loss = functools.partial(method.call, **method.check(selector.options))
    teacher = open_suspect(
        weights, images, model=model, key=key, size=size, channels=channels, normalize=_statistics(mean, std)
    )
    backdoor = make_backdoor(trigger, target, teacher.test.classes) if trigger else None
    options = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "flip": flip, "crop": crop}
    start = make_model(student, teacher.train, rng=rng("student", "start", face.seed))
    with face.loop(f"{student} by {selector.text}"):
        learnt = distill_model(
            start, teacher.model, teacher.train, loss=loss, epochs=epochs, lr=lr, batch_size=batch_size,
            augment=Augment(flip, crop), rng=rng("student", face.seed), device=device,
        )  # fmt: skip
    facts: dict[str, Any] = {"distiller": selector.text, "student": student, "images": images, "seed": face.seed}
    taught = measure_model(teacher.model, teacher.test, backdoor)
    found = measure_model(learnt, teacher.test, backdoor)
    facts |= {"teacher_measured": taught.record(), "student_measured": found.record()}
    facts["weights"] = str(write_artefact(out, learnt, teacher.taint, {**facts, **options}))
    lines = [f"teacher: {taught}", f"student: {found}", facts["weights"]]
    face.show(facts, *lines, *face.flags(found.flags))
    return int(verdict(found))
