"""Commands that look something up: methods, models, layers, and what a file is."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated, Any

import typer

import distrust as dt

from .command import Face, Key, command


@command
def list_(
    face: Face,
    kind: Annotated[str | None, typer.Argument(help="triggers, attacks, distillers, defenses … or models.")] = None,
) -> int:
    """List methods (of one kind, then with their papers), or models."""
    from ..cards import works_on
    from ..files import remembered
    from ..marks import KINDS
    from ..registry import registry

    kinds = [*KINDS, "models"]
    if kind and kind not in kinds:
        raise dt.NotFound.among("kind", kind, kinds)
    found, lines = {}, []
    for name in [kind] if kind else kinds:
        methods = {} if name == "models" else registry.cards(name)
        said = {entry: facts["words"] for entry, facts in methods.items()}
        found[name] = remembered("models", _families) if name == "models" else said
        lines += [f"{name}:"] if found[name] or kind else []
        carriers = {entry: works_on(facts) for entry, facts in methods.items()}
        wide = max(map(len, carriers.values()), default=0)
        for entry, told in found[name].items():
            carrier = f"{carriers[entry]:<{wide}}  " if wide else ""
            paper = [f"{'':24}{'':{len(carrier)}}{methods[entry]['paper']}"] if kind and methods else []
            lines += [f"  {entry:<21} {carrier}{told}", *paper]
    return face.show(found, *lines)


def _families() -> dict[str, str]:
    from ..models import families

    return families()


@command
def show(
    face: Face,
    method: Annotated[str, typer.Argument(help="A method's name, e.g. nad, or kind/name, e.g. triggers/blend.")],
) -> int:
    """Show a method: paper, options with bounds and defaults, and how it differs from the paper."""
    from ..cards import text
    from ..marks import KINDS
    from ..registry import registry

    kind, _, name = method.rpartition("/")
    known: dict[str, dict[str, Any]] = {}
    for one in [kind] if kind else reversed(KINDS):  # of a name without its kind, the first kind that knows it wins
        known |= registry.cards(one)
    if name not in known:
        raise dt.NotFound.among(kind.removesuffix("s") or "method", name, known)
    return face.show(known[name], *text(known[name]).split("\n"))


@command
def layers(
    face: Face,
    model: Annotated[str, typer.Argument(help="wrn16-1, my.py:factory, timm:NAME …")],
    size: Annotated[int, typer.Option(min=1, help="Side of the images in pixels.")] = 32,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the images.")] = 3,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 10,
) -> int:
    """Show a model's layer paths, output shapes, where its groups end, and what the words for layers stand for."""
    from ..models import layers as layers_of
    from ..models import resolve
    from ..models.groups import WORDS

    network = dt.model(model, classes=classes, channels=channels, size=size)
    rows = [row._asdict() for row in layers_of(network, (channels, size, size))]
    total = sum(p.numel() for p in network.parameters())
    lines = [
        f"{'●' if r['group_end'] else ' '} {r['path']:<32} {r['type']:<20} "
        f"{'×'.join(map(str, r['shape'])) if r['shape'] else '–':<14} {r['parameters']:>12,}"
        for r in rows
    ]
    words = {}
    for word in WORDS[1:]:
        with contextlib.suppress(dt.BadInput):  # a model without such a place
            words[word] = resolve(network, word, (channels, size, size))
    facts = {"model": model, "parameters": total, "layers": rows, "words": words}
    meant = [f"{word:<12} {', '.join(paths)}" for word, paths in words.items()]
    return face.show(facts, *lines, f"{total:,} parameters; ● = end of a group. Words for layers=:", *meant)


@command
def check(
    face: Face,
    files: Annotated[list[str], typer.Argument(help="Weights, sets, triggers, studies, methods, image sources …")],
    key: Key = None,
    experiment: Annotated[int | None, typer.Option(help="Which of the synthetic sets in a file, 0 the first.")] = None,
) -> int:
    """Say what files are, whether they are safe to open, and what to type next, without running them.

    Exit code 1: one is unsafe, as opening it would run something; 2: one is damaged, or unreadable here.
    """
    found: list[dict[str, Any]] = []
    for file in files:
        try:
            found.append({"file": file, "safe": True, **dt.check(file, key, experiment)})
        except dt.DistrustError as error:
            found.append(refused := _refused(file, error))
            if len(files) == 1 and refused["is"] != "unsafe":
                error.facts = refused
                raise
    if len(files) > 1:
        face.show({"files": found}, *map(_line, found))
    elif "error" in (one := found[0]):
        face.show(one, f"{one['error']}: {one['reason']}")
    else:
        face.show(one, one["text"], f"Next: {one['next']}")
    return 1 if any(one["safe"] is False for one in found) else 2 if any("error" in one for one in found) else 0


def _refused(file: str, error: dt.DistrustError) -> dict[str, Any]:
    """What is said of a file that cannot be used."""
    said, unsafe = str(error), isinstance(error, dt.UnsafeFile)
    missing = isinstance(error, dt.NotFound) and not os.path.lexists(file)
    other = "damaged" if "damaged" in said.replace(file, "") else "unreadable"
    what = "unsafe" if unsafe else "missing" if missing else other
    return {"file": file, "is": what, "safe": False if unsafe else None, "error": type(error).__name__, "reason": said}


def _line(found: dict[str, Any]) -> str:
    """One of several files in one line."""
    file = found["file"]
    if "text" in found:
        said = f"{found['text'].rstrip('.')}; next: {found['next']}"
    else:
        reason = found["reason"].removeprefix(file).removeprefix(":").removeprefix(" is").strip()
        said = f"{found['error']}: {reason}"
    return " ".join(f"{file}: {said}".split())
