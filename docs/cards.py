"""Write docs/methods.md from the registry: `python docs/cards.py`. A test checks that it is up to date."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distrust.cards import about_training, card, described_facts, marked, own
from distrust.marks import KINDS
from distrust.models import families
from distrust.registry import Method, registry

PAGE = Path(__file__).with_name("methods.md")
INTRO = """# Methods

Every method that Distrust knows, by kind. This page is written by `python docs/cards.py` from the methods
themselves: name, paper, options with type, bounds and default, and how ours differs from the paper. The same card
is printed by `distrust show NAME`; where two kinds share a name, `distrust show KIND/NAME`.

*Facts* are what a method declares of itself beyond the usual. A *null* row is there to be beaten: it appears in tables
so that a number has something to stand beside.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRO]
    for kind in KINDS:
        methods = registry.kind(kind).values()
        if methods:
            parts.append(f"## {kind}\n")
            parts += filter(None, [_legend(methods)])
            parts += [_section(card(method)) for method in methods]
    rows = "\n".join(f"| `{_cell(name)}` | {_cell(about)} |" for name, about in families().items())
    parts.append(
        f"## models\n\n`distrust layers NAME` shows a model's layers.\n\n| name | what it is |\n|---|---|\n{rows}\n"
    )
    return "\n".join(parts)


def _legend(methods: Iterable[Method]) -> str:
    """What the facts mean that some of these methods have."""
    marks = [method.mark for method in methods]
    meant = described_facts(type(marks[0])) | {"null": "a row that is there to be beaten."}
    given = sorted({name for mark in marks for name in marked(mark)}, key=list(meant).index)
    return "".join(f"- *{name}*: {meant[name]}\n" for name in given)


def _section(facts: dict[str, Any]) -> str:
    lines = [f"### {facts['kind']}/{facts['name']}", "", facts["summary"], "", f"Paper: {facts['paper']}."]
    if own(facts):
        lines += ["", f"Facts: {'; '.join(f'*{name}* {value}' for name, value in own(facts).items())}."]
    if facts["options"]:
        lines += ["", "| option | default | type | what it does |", "|---|---|---|---|"]
        for option in facts["options"]:
            cells = (f"`{option['name']}`", f"`{json.dumps(option['default'])}`", option["bounds"], option["about"])
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    lines += ["", about_training(facts)] if "training" in facts else []
    lines += ["", facts["differs"], ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that a table's cell can hold."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE}: {sum(len(registry.kind(kind)) for kind in KINDS)} methods")
