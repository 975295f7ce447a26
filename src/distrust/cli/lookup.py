"""Commands that look something up: methods, models, layers, and what a file is."""

from __future__ import annotations

import contextlib
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
    from ..files import remembered
    from ..marks import KINDS
    from ..registry import registry

    kinds = [*KINDS, "models"]
    if kind and kind not in kinds:
        raise dt.NotFound.among("kind", kind, kinds)
    found, lines = {}, []
    for name in [kind] if kind else kinds:
        methods = {} if name == "models" else registry.cards(name)
        summaries = {entry: facts["summary"] for entry, facts in methods.items()}
        found[name] = remembered("models", _families) if name == "models" else summaries
        lines += [f"{name}:"] if found[name] or kind else []
        for entry, summary in found[name].items():
            paper = [f"{'':26} {methods[entry]['paper']}"] if kind and methods else []
            lines += [f"  {entry:<24} {summary}", *paper]
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
    if len(files) == 1:
        (file,) = files
        try:
            facts = dt.check(file, key, experiment)
        except dt.UnsafeFile as error:
            face.show({"file": file, "is": "unsafe", "safe": False, "reason": str(error)}, f"UnsafeFile: {error}")
            return 1
        return face.show({"file": file, "safe": True, **facts}, facts["text"], f"Next: {facts['next']}")
    found: list[dict[str, Any]] = []
    for file in files:
        try:
            found.append({"file": file, "safe": True, **dt.check(file, key, experiment)})
        except dt.UnsafeFile as error:
            said = {"is": "unsafe", "safe": False, "error": "UnsafeFile", "reason": str(error)}
            found.append({"file": file, **said})
        except dt.DistrustError as error:
            other = "damaged" if "damaged" in str(error) else "unreadable"
            what = "missing" if isinstance(error, dt.NotFound) else other
            found.append({"file": file, "is": what, "error": type(error).__name__, "reason": str(error)})
    face.show({"files": found}, *map(_line, found))
    return 1 if any(one.get("safe") is False for one in found) else 2 if any("error" in one for one in found) else 0


def _line(found: dict[str, Any]) -> str:
    """One of several files in one line."""
    file = found["file"]
    if "text" in found:
        said = f"{found['text'].rstrip('.')}; next: {found['next']}"
    else:
        reason = found["reason"].removeprefix(file).removeprefix(":").removeprefix(" is").strip()
        said = f"{found['error']}: {reason}"
    return " ".join(f"{file}: {said}".split())
