"""Cards: what `distrust show` says of a method, read from its mark, signature and docstring."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from .marks import Mark

if TYPE_CHECKING:
    from .registry import Method

EVERY = {  # told in their own way
    "name", "kind", "summary", "words", "paper", "options", "training", "further", "differs",
}  # fmt: skip
TOLD = {"kind", "paper", "version", "cost", "later"}  # elsewhere on the card, or nobody's but the planner's

TRAINED_ON = "the images that the suspect was trained on, which a study has and purify does not"


def card(method: Method) -> dict[str, Any]:
    """Everything that is known about a method, JSON-able: `facts` are those of its mark that are not as usual."""
    training = method.training
    classes = (type(training.augment), type(training)) if training else ()
    described = _described(*classes, method.call)
    # fields of its training that mean nothing special: what everybody's are unless they are set
    usual = type(training)().fields if training else {}
    rest = [name for name, value in method.tacit.items() if name in usual and value == usual[name].default]
    facts = {
        "name": method.name,
        "kind": method.mark.kind,
        "summary": method.summary,
        "words": words(method),
        "paper": method.mark.paper,
        **({"needs": list(method.inputs)} if method.mark.kind == "metrics" else {}),
        **({"needs": TRAINED_ON} if "trained_on" in method.inputs and method.mark.kind == "defenses" else {}),
        **marked(method.mark),
        "options": [
            {
                "name": name,
                "default": None if p.default is p.empty else _plain(p.default),
                "bounds": bounds(p.annotation),
                "about": described.get(name, ""),
            }
            for name, p in method.options.items()
            if name not in rest
        ],
        "training": described.get("training") if training else None,
        "further": rest or None,
        "differs": _differs(inspect.getdoc(method.call) or ""),
    }
    return {k: v for k, v in facts.items() if v not in (None, False)}


def words(method: Method) -> str:
    """What it does in a sentence: the first of its file, whose only method it is, or of a stranger's its own."""
    module = sys.modules[method.call.__module__]
    ours = module.__name__.startswith(f"{__package__}.methods.")
    return (module.__doc__ or "").partition("\n\n")[0] if ours and module.__doc__ else method.summary


def works_on(facts: Mapping[str, Any]) -> str:
    """What a method of such a card works on: the carrier of an attack, or what its mark says; "" if neither."""
    if place := re.search(r"\((.+)\)", str(facts.get("place", ""))):
        return place[1]
    usual = "classifier" if facts["kind"] in ("defenses", "detectors") else ""
    return " or ".join([*([usual] if facts.get("also") else []), str(facts.get("on", usual))])


def about_training(facts: dict[str, Any]) -> str:
    """One line: what a card says of the training, and which of its fields may be set beside those in the table."""
    return f"Training: {facts['training']} May be set too: {', '.join(facts['further'])}."


def marked(mark: Mark) -> dict[str, Any]:
    """The facts of a mark that are not the usual ones; of a numbered one, what the number means."""
    facts = (field for field in dataclasses.fields(mark) if field.name not in TOLD)
    given = {field.name: getattr(mark, field.name) for field in facts if getattr(mark, field.name) != field.default}
    about = described_facts(type(mark))
    return {name: _meant(value, about.get(name, "")) for name, value in given.items() if value not in ({}, ())}


def described_facts(mark: type) -> dict[str, str]:
    """Fact → its text, of a kind's marks and of what they are made of."""
    return _described(*reversed(mark.__mro__[:-1]))


def _meant(value: Any, about: str) -> Any:
    """`1 (training data)` where a description names its numbers: `…: 1 training data, 2 teacher`."""
    word = re.search(rf"\b{value} ([a-z ]+)", about) if type(value) is int else None
    return f"{value} ({word[1].strip()})" if word else _plain(value)


def text(facts: dict[str, Any]) -> str:
    """A card for a person."""
    lines = [f"{facts['name']} ({facts['kind']}): {facts['summary']}", f"Paper: {facts['paper']}"]
    lines += [f"{name}: {value}" for name, value in own(facts).items()]
    for option in facts["options"]:
        lines.append(f"  {option['name']} = {json.dumps(option['default'])}   ({option['bounds']})")
        lines.append(f"      {option['about']}")
    lines += [about_training(facts)] if "training" in facts else []
    return "\n".join([*lines, facts["differs"]])


def own(facts: dict[str, Any]) -> dict[str, str]:
    """Of a card, the facts of the method's mark, in words."""
    return {name: _words(value) for name, value in facts.items() if name not in EVERY}


def _words(value: Any) -> str:
    if isinstance(value, list | dict):
        return ", ".join(map(str, value))
    return "yes" if value is True else f"{value:.3g}" if isinstance(value, float) else str(value).strip("_")


def _described(*things: Any) -> dict[str, str]:
    """Option, field or fact → its text in the Args of the docstrings; the last has the word."""
    documents = "\n".join(inspect.getdoc(thing) or "" for thing in things)
    sections = re.findall(r"^Args:\n((?:    .*\n?|\n)+)", documents, re.MULTILINE)
    parts = re.findall(r"^    (\w+): ((?:.*\n?)(?:        .*\n?)*)", "".join(sections), re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in parts}


def _differs(document: str) -> str:
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
        kinds = [bounds(a) for a in args if a not in (type(None), ...)]
        return ("list of " if get_origin(annotation) in (list, tuple) else "") + " or ".join(dict.fromkeys(kinds))
    return getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda thing: getattr(thing, "__name__", str(thing))))
