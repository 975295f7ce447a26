"""The page: one HTML file with its style, script, pictures and data inside."""

from __future__ import annotations

import functools
import json
import platform
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
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
from .rows import Cell, Row, alone, columns, describe, finite, given, over_seeds, varying
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
    defenses = [facet.defense for facet in maps]
    raised = Counter(flag for row in rows for flag in row.flags)
    glossary = {**MEANING, **study.glossary}
    shown = [column for column in columns() if any(finite(cell.get(column.key)) for cell in study.cells)]
    data = {
        "rows": [_embedded(row) for row in rows], "cells": [_neurons(cell) for cell in study.cells],
        "columns": [column._asdict() for column in shown], "axes": list(AXES), "title": study.title,
        "lineage": study.lineage, "published": study.published, "glossary": glossary, "made_by": study.made_by,
    }  # fmt: skip
    return _template().render(
        study=study,
        sentences=sentences(study.cells),
        facets=maps,
        models=models(rows),
        varying=varying(row.axes for row in rows),
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
        axes=_columns(rows),
        metrics=[column for column in shown if not column.detail],
        fixed=_fixed(rows),
        glossary={name: glossary[name] for name in sorted(glossary, key=lambda name: not raised[name])},
        raised=raised,
        # JSON has no NaN and no infinity: they become null, which the page shows as a dash
        data=json.loads(json.dumps(data, default=str), parse_constant=lambda _: None),
        versions=f"Distrust {__version__} · Python {platform.python_version()} · torch {version('torch')}",
    )


@functools.cache
def _template() -> Any:
    shelf = Environment(
        loader=PackageLoader("distrust.reporting", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shelf.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    shelf.filters |= {"percent": text.percent, "interval": text.interval, "number": text.number}
    shelf.filters |= {"describe": describe, "verdict": verdict, "base64": lambda png: b64encode(png).decode()}
    return shelf.get_template("page.html.j2")


def _embedded(row: Row) -> dict[str, Any]:
    return {**vars(row), "cells": [cell["id"] for cell in row.cells], "verdict": verdict(row)}


def _neurons(cell: Cell) -> Cell:
    """Of the mechanism check, the layers with a poisoned neuron; where there is none, the one with the longest run."""
    if not (layers := cell.get("mechanism")):
        return cell
    poisoned = [layer for layer in layers if layer["chosen"]]
    return {**cell, "mechanism": poisoned or [max(layers, key=lambda layer: layer["run"])]}


def _columns(rows: Sequence[Row]) -> list[Any]:
    """Axes that a table shows; one of a setting with a single value is said once, above."""
    told = {*varying(row.axes for row in rows), "attack", *(axis.name for axis in TABLE if not axis.setting)}
    return [axis for axis in TABLE if axis.name in told and any(given(row.axes, axis.name) for row in rows)]


def _fixed(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What all rows share, the attack apart."""
    names = (*(axis.name for axis in TABLE if axis.setting and axis.name != "attack"), "budget")
    moving = varying(row.axes for row in rows)
    return [(name, rows[0].axes[name]) for name in names if rows and given(rows[0].axes, name) and name not in moving]


def _fitting(strips: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """As many pictures of each strip as the budget allows."""
    for shown in (8, 4, 2, 1, 0):
        fitting = {name: {**strip, **{kind: strip[kind][:shown] for kind in KINDS}} for name, strip in strips.items()}
        if sum(len(png) for strip in fitting.values() for kind in KINDS for png in strip[kind]) <= PICTURES_BUDGET:
            break
    return fitting
