"""Commands that look something up: methods, models, layers, and what a file is."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated

import typer

from .command import Key, Plugins, command
from .face import Face


@command
def list_(
    face: Face,
    kind: Annotated[str | None, typer.Argument(help="triggers, attacks, distillers, defenses … or models.")] = None,
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """List methods (of one kind, then with their papers), or models."""
    from ..errors import NotFound
    from ..models import families
    from ..registry import KINDS, registry

    for file in plugin:
        registry.add(file)
    kinds = [*KINDS, "models"]
    if kind and kind not in kinds:
        raise NotFound.among("kind", kind, kinds)
    found: dict[str, dict[str, str]] = {}
    for name in [kind] if kind else kinds:
        if name == "models":
            found[name] = families()
        else:
            found[name] = {m.name: m.summary for m in registry.kind(name).values()}
    lines = [
        line
        for name, entries in found.items()
        if entries or kind
        for line in [f"{name}:", *(f"  {entry:<24} {summary}" for entry, summary in entries.items())]
    ]
    if kind and kind != "models":
        papers = {m.name: m.mark.paper for m in registry.kind(kind).values()}
        lines = [f"{kind}:", *(f"  {m:<24} {about}\n{'':26} {papers[m]}" for m, about in found[kind].items())]
    return face.show(found, *lines)


@command
def show(
    face: Face,
    method: Annotated[str, typer.Argument(help="A method's name, e.g. nad, or kind/name, e.g. triggers/blend.")],
    plugin: Plugins = [],  # noqa: B006
) -> int:
    """Show a method: paper, options with bounds and defaults, and how it differs from the paper."""
    from ..registry import registry
    from .cards import WORKS_ON, card

    for file in plugin:
        registry.add(file)
    kind, _, name = method.rpartition("/")
    facts = card(registry.get(kind, name) if kind else registry.find(name))
    lines = [f"{facts['name']} ({facts['kind']}): {facts['summary']}", f"Paper: {facts['paper']}"]
    lines += [f"Enters at place {facts['place']}"] if "place" in facts else []
    lines += [WORKS_ON[facts["on"]]] if "on" in facts else []
    lines += [f"Needs {', '.join(facts['needs'])}"] if "needs" in facts else []
    lines += [f"Only {facts['only']}"] if "only" in facts else []
    lines += [f"  {name}: {about}" for name, about in facts.get("fields", {}).items()]
    for option in facts["options"]:
        lines.append(f"  {option['name']} = {json.dumps(option['default'])}   ({option['bounds']})")
        lines.append(f"      {option['about']}")
    return face.show(facts, *lines, facts["differs"])


@command
def layers(
    face: Face,
    model: Annotated[str, typer.Argument(help="wrn16-1, my.py:factory, timm:NAME …")],
    size: Annotated[int, typer.Option(min=1, help="Side of the images in pixels.")] = 32,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the images.")] = 3,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 10,
) -> int:
    """Show a model's layer paths, output shapes, where its groups end, and what the words for layers stand for."""
    from ..errors import BadInput
    from ..models import layers as layers_of
    from ..models import model as make_model
    from ..models import resolve
    from ..models.groups import WORDS

    network = make_model(model, classes=classes, channels=channels, size=size)
    rows = [row._asdict() for row in layers_of(network, (channels, size, size))]
    total = sum(p.numel() for p in network.parameters())
    lines = [
        f"{'●' if r['group_end'] else ' '} {r['path']:<32} {r['type']:<20} "
        f"{'×'.join(map(str, r['shape'])) if r['shape'] else '–':<14} {r['parameters']:>12,}"
        for r in rows
    ]
    words = {}
    for word in WORDS[1:]:
        with contextlib.suppress(BadInput):  # a model without such a place
            words[word] = resolve(network, word, (channels, size, size))
    facts = {"model": model, "parameters": total, "layers": rows, "words": words}
    meant = [f"{word:<12} {', '.join(paths)}" for word, paths in words.items()]
    return face.show(facts, *lines, f"{total:,} parameters; ● = end of a group. Words for layers=:", *meant)


@command
def check(
    face: Face,
    file: Annotated[str, typer.Argument(help="A checkpoint, trigger.json, study.toml, method.py or image source.")],
    key: Key = None,
) -> int:
    """Say what a file is and whether it is safe to open, without running it. Exit code 1: unsafe."""
    from ..auditing.check import check_file
    from ..errors import UnsafeFile

    try:
        facts = check_file(file, key)
    except UnsafeFile as error:
        face.show({"file": file, "safe": False, "reason": str(error)}, f"UnsafeFile: {error}")
        return 1
    return face.show({"file": file, "safe": True, **facts}, facts["text"])
