"""The page: one HTML file with its style, script, pictures and data inside."""

from __future__ import annotations

import platform
from base64 import b64encode
from collections import Counter
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .. import __version__
from ..flags import MEANING
from ..study.axes import AXES, TABLE
from . import figures, text
from .answer import sentences
from .data import Report, packed
from .detection import detections
from .features import MOST
from .heatmap import defenses, panels
from .plots import inline_curves
from .rows import NAMES, Cell, Row, columns, describe, finite, given, over_seeds, varying
from .verdict import Verdict, comparisons, verdicts

PICTURES_BUDGET = 600_000  # bytes of PNG, each counted once: the page stays under 2 MB
KINDS = ("clean", "triggered", "difference")


def page(study: Report) -> str:
    """Render a report as one HTML file that needs no server and loads nothing.

    Args:
        study: what to show.

    Returns:
        The text of the file; write it as UTF-8.
    """
    rows = over_seeds(study.cells)
    moving = varying((row.axes for row in rows), NAMES)
    said_once = [name for name in NAMES if name not in ("study", "attack", *moving)]
    fixed = {name: row.axes[name] for row in rows[:1] for name in said_once if given(row.axes, name)}
    names = defenses(rows)
    raised = Counter(flag for row in rows for flag in row.flags)
    glossary = {**MEANING, **study.glossary}
    shown = [column for column in columns() if any(finite(cell.get(column.key)) for cell in study.cells)]
    drawn, said = figures.frontiers(rows, names), verdicts(rows)
    curves = [curve for column in shown if column.key == "carried" for curve in inline_curves(rows, column)]
    strips, pictures = _shared(study.pictures)
    data = {
        "rows": [_told(row, said.get(row)) for row in rows],
        "cells": [_neurons(cell) for cell in study.cells],
        "columns": [column._asdict() for column in shown], "axes": list(AXES), "title": study.title,
        "lineage": study.lineage, "published": study.published, "glossary": glossary, "made_by": study.made_by,
        "pictures": pictures, "figures": [figure["svg"] for figure in (*curves, *drawn)],
    }  # fmt: skip
    shelf = Environment(
        loader=PackageLoader("distrust.reporting", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shelf.filters |= {"percent": text.percent, "reach": text.reach, "number": text.number, "share": text.share}
    shelf.filters |= {"describe": describe}
    return shelf.get_template("page.html.j2").render(
        study=study,
        sentences=sentences(study.cells),
        panels=panels(rows),
        curves=curves,
        frontiers=drawn,
        marks=[(name, *mark[1:]) for name, mark in figures.marks(names).items()],
        pictures=strips,
        embeddings=study.embeddings[:MOST],
        beside=varying(study.embeddings[:MOST]),
        comparisons=comparisons(study.cells),
        detections=detections(study.cells),
        rows=rows,
        axes=[axis for axis in TABLE if axis.name in ("attack", *moving)],
        judged=any(said.values()),
        metrics=[column for column in shown if not column.detail],
        fixed=fixed.items(),
        glossary={name: glossary[name] for name in sorted(glossary, key=lambda name: not raised[name])},
        raised=raised,
        data=packed(data),
        versions=f"Distrust {__version__} · Python {platform.python_version()} · torch {version('torch')}",
    )


def _told(row: Row, said: Verdict | None) -> dict[str, Any]:
    """A row with its name and its verdict, its cells by their ids, and each mean with how far its runs lie apart."""
    units = {column.key: column.unit for column in columns()}
    values = {key: [one.mean, text.reach(one, units[key])] for key, one in row.values.items()}
    named = {"name": describe(row.axes), "verdict": said, "cells": [cell["id"] for cell in row.cells]}
    return {**vars(row), **named, "values": values}


def _neurons(cell: Cell) -> Cell:
    """Of the mechanism check, the layers with a poisoned neuron; where there is none, the one with the longest run."""
    if not (layers := cell.get("mechanism")):
        return cell
    poisoned = [layer for layer in layers if layer["chosen"]]
    return {**cell, "mechanism": poisoned or [max(layers, key=lambda layer: layer["run"])]}


def _shared(strips: dict[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """As many pictures of each strip as the budget allows, as places in a list that has each picture once."""
    pngs = [strip[kind] for strip in strips.values() for kind in KINDS]
    pool: dict[bytes, int] = {}
    for most in (8, 4, 2, 1, 0):
        pool = {png: i for i, png in enumerate(dict.fromkeys(png for some in pngs for png in some[:most]))}
        if sum(map(len, pool)) <= PICTURES_BUDGET:
            break
    found = {
        name: strip | {kind: [pool[png] for png in strip[kind][:most]] for kind in KINDS}
        for name, strip in strips.items()
    }
    return found, [b64encode(png).decode() for png in pool]
