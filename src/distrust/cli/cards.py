"""Cards: what `distrust show` says of a method, read from its mark, signature and docstring."""

from __future__ import annotations

import inspect
import json
import re
from typing import Annotated, Any, get_args, get_origin

from ..measurement.scores import columns
from ..registry import Method

PLACES = {1: "training data", 2: "teacher", 3: "transfer set", 4: "synthetic set", 5: "encoder"}
WORKS_ON = {
    "transfer": "Sifts the images of a distillation.",
    "synthetic": "Works on a synthetic set.",
    "encoder": "Works on an encoder.",
    "any": "Takes any suspect.",
}


def card(method: Method) -> dict[str, Any]:
    """Everything that is known about a method, JSON-able."""
    document = inspect.getdoc(method.call) or ""
    described = described_options(document)
    facts = {
        "name": method.name,
        "kind": method.mark.kind,
        "summary": method.summary,
        "paper": method.mark.paper,
        **(_metric(method) if method.mark.kind == "metrics" else _position(method)),
        "null": method.mark.null,
        "options": [
            {
                "name": name,
                "default": None if p.default is p.empty else _plain(p.default),
                "bounds": bounds(p.annotation),
                "about": described.get(name, ""),
            }
            for name, p in method.options.items()
        ],
        "differs": differs(document),
    }
    return {k: v for k, v in facts.items() if v not in (None, False)}


def _position(method: Method) -> dict[str, Any]:
    place, on = getattr(method.mark, "place", None), getattr(method.mark, "on", None)
    return {"place": place and f"{place} ({PLACES[place]})", "on": None if on == "classifier" else on}


def _metric(method: Method) -> dict[str, Any]:
    """What a metric needs, and for each field its unit and range; and which cells have it."""
    mark = method.mark
    only = [f"where an attack enters at place {mark.place} ({PLACES[mark.place]})"] if mark.place else []
    only += [f"where a defence cleans a {mark.on} set"] if mark.on else []
    told = {}
    for name, column in columns(method).items():
        ends = (("from", column.low), ("to", column.high))
        span = [f"{word} {end:g}" for word, end in ends if end is not None]
        told[name] = ", ".join(
            filter(None, [column.unit, " ".join(span), column.better and f"{column.better} is better"])
        )
    return {"needs": list(method.inputs), "fields": told, "only": " and ".join(only) or None}


def described_options(document: str) -> dict[str, str]:
    """Option → its text in the docstring's Args."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", document, re.MULTILINE)
    if not section:
        return {}
    parts = re.findall(r"^    (\w+): ((?:.*\n?)(?:        .*\n?)*)", section.group(1), re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in parts}


def differs(document: str) -> str:
    """The paragraphs that say how we differ from the paper or its released code."""
    found = re.search(r"^Differs from .*(?:\n(?!\w+:$).+)*", document, re.MULTILINE)
    return " ".join(found.group(0).split()) if found else ""


def bounds(annotation: Any) -> str:
    """Type and bounds of an option in words: `number ≥ 0, ≤ 1`."""
    if get_origin(annotation) is Annotated:
        base, *notes = get_args(annotation)
        limits = [m for note in notes for m in getattr(note, "metadata", [note])]
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        text = [f"{sign} {getattr(m, name):g}" for m in limits for name, sign in signs.items() if hasattr(m, name)]
        return f"{bounds(base)} {', '.join(text)}".strip()
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "see below"}
    if annotation in names:
        return names[annotation]
    if args := get_args(annotation):
        if all(isinstance(a, str) for a in args):
            return " or ".join(map(repr, args))
        kinds = [bounds(a) for a in args if a is not type(None)]
        return ("list of " if get_origin(annotation) is list else "") + " or ".join(dict.fromkeys(kinds))
    return getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return str(value)
