"""The page: one HTML file with its style, script, pictures and data inside."""

from __future__ import annotations

import json
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
from .data import Report
from .detection import detections
from .features import MOST
from .heatmap import facets, models
from .rows import SETTING, Cell, alone, columns, describe, finite, given, over_seeds, varying
from .verdict import comparisons, verdict

PICTURES_BUDGET = 700_000  # bytes of PNG: the page stays under 2 MB
KINDS = ("clean", "triggered", "difference")


def page(study: Report) -> str:
    """Render a report as one HTML file that needs no server and loads nothing.

    Args:
        study: what to show.

    Returns:
        The text of the file; write it as UTF-8.
    """
    rows, lines = over_seeds(study.cells), alone(study.cells)
    maps = facets(rows)
    moving = varying(row.axes for row in rows)
    said_once = [name for name in SETTING if name not in ("study", "attack", *moving)]
    fixed = {name: row.axes[name] for row in rows[:1] for name in said_once if given(row.axes, name)}
    defenses = [facet.defense for facet in maps]
    raised = Counter(flag for row in rows for flag in row.flags)
    glossary = {**MEANING, **study.glossary}
    shown = [column for column in columns() if any(finite(cell.get(column.key)) for cell in study.cells)]
    data = {
        "rows": [{**vars(row), "cells": [c["id"] for c in row.cells], "verdict": verdict(row)} for row in rows],
        "cells": [_neurons(cell) for cell in study.cells],
        "columns": [column._asdict() for column in shown], "axes": list(AXES), "title": study.title,
        "lineage": study.lineage, "published": study.published, "glossary": glossary, "made_by": study.made_by,
    }  # fmt: skip
    shelf = Environment(
        loader=PackageLoader("distrust.reporting", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shelf.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    shelf.filters |= {"percent": text.percent, "interval": text.interval, "number": text.number}
    shelf.filters |= {"describe": describe, "verdict": verdict, "base64": lambda png: b64encode(png).decode()}
    return shelf.get_template("page.html.j2").render(
        study=study,
        sentences=sentences(study.cells),
        facets=maps,
        models=models(rows),
        varying=moving,
        frontiers=figures.frontiers(rows, defenses),
        marks=figures.marks(defenses),
        pictures=_fitting(study.pictures),
        embeddings=study.embeddings[:MOST],
        beside=varying(study.embeddings[:MOST]),
        comparisons=comparisons(study.cells),
        detections=detections(study.cells),
        rows=rows,
        lines=lines,
        row_of={cell["id"]: i for i, row in enumerate(rows) for cell in row.cells},
        axes=[axis for axis in TABLE if axis.name not in fixed and any(given(r.axes, axis.name) for r in rows)],
        metrics=[column for column in shown if not column.detail],
        fixed=fixed.items(),
        glossary={name: glossary[name] for name in sorted(glossary, key=lambda name: not raised[name])},
        raised=raised,
        # JSON has no NaN and no infinity: they become null, which the page shows as a dash
        data=json.loads(json.dumps(data, default=str), parse_constant=lambda _: None),
        versions=f"Distrust {__version__} · Python {platform.python_version()} · torch {version('torch')}",
    )


def _neurons(cell: Cell) -> Cell:
    """Of the mechanism check, the layers with a poisoned neuron; where there is none, the one with the longest run."""
    if not (layers := cell.get("mechanism")):
        return cell
    poisoned = [layer for layer in layers if layer["chosen"]]
    return {**cell, "mechanism": poisoned or [max(layers, key=lambda layer: layer["run"])]}


def _fitting(strips: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """As many pictures of each strip as the budget allows."""
    pngs = [strip[kind] for strip in strips.values() for kind in KINDS]
    most = next(k for k in (8, 4, 2, 1, 0) if sum(len(png) for some in pngs for png in some[:k]) <= PICTURES_BUDGET)
    return {name: strip | {kind: strip[kind][:most] for kind in KINDS} for name, strip in strips.items()}
