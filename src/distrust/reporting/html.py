"""The page: one HTML file with its style, script, pictures and data inside."""

from __future__ import annotations

import base64
import functools
import importlib.metadata
import math
import platform
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .. import __version__
from ..flags import MEANING
from . import figures, text
from .aggregate import Cell, over_seeds, varying
from .answer import sentences
from .data import Report
from .heatmap import describe, facets

PICTURES_BUDGET = 700_000  # bytes of PNG: the page stays under 2 MB
KINDS = ("clean", "triggered", "difference")


def page(study: Report) -> str:
    """Render a report as one HTML file that needs no server and loads nothing.

    Args:
        study: what to show.

    Returns:
        The text of the file; write it as UTF-8.
    """
    rows = over_seeds(study.cells)
    maps = facets(rows)
    defenses = [facet["defense"] for facet in maps]
    data: dict[str, Any] = {
        "title": study.title, "rows": rows, "cells": [_neurons(c) for c in study.cells], "lineage": study.lineage,
        "published": study.published, "glossary": {**MEANING, **study.glossary}, "made_by": study.made_by,
    }  # fmt: skip
    return _template().render(
        study=study,
        sentences=sentences(study.cells),
        facets=maps,
        frontiers=figures.frontiers(rows, defenses),
        marks=figures.marks(defenses),
        pictures=_pictures(study.pictures),
        maps=figures.feature_maps(study.embeddings),
        map_marks=figures.FEATURES,
        row_columns=_columns(rows, ("seeds", "Seeds")),
        cell_columns=_columns(rows, ("seed", "Seed")),
        rows=rows,
        row_of={name: i for i, row in enumerate(rows) for name in row["cells"]},
        fixed=_fixed(rows),
        unfinished=[cell for cell in study.cells if cell["state"] != "done"],
        glossary={name: data["glossary"][name] for name in _raised(rows, data["glossary"])},
        data=_plain(data),
        versions=_versions(),
    )


@functools.cache
def _template() -> Any:
    shelf = Environment(
        loader=PackageLoader("distrust.reporting", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shelf.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "default": str}
    shelf.filters |= {"percent": text.percent, "interval": text.interval, "duration": text.duration}
    shelf.filters |= {"describe": describe}
    return shelf.get_template("page.html.j2")


def _neurons(cell: Cell) -> Cell:
    """Of the mechanism check, the layers with a poisoned neuron; where there is none, the one with the longest run."""
    if not (layers := cell.get("mechanism")):
        return cell
    poisoned = [layer for layer in layers if layer["chosen"]]
    return {**cell, "mechanism": poisoned or [max(layers, key=lambda layer: layer["run"])]}


def _columns(rows: Sequence[Cell], seed: tuple[str, str]) -> list[tuple[str, str, str]]:
    """(key, heading, kind) of a table; an axis with one value everywhere is said once, above."""
    axes = [*varying(rows), "attack", "distiller", "student", "defense"]
    rates = {
        "acc": "ACC", "asr": "ASR", "base": "Base", "untriggered": "Untriggered", "titg": "TITG",
        "carried": "Carried", "carry_over": "Carry-over",
    }  # fmt: skip
    removed = {"caught": "Poisons removed", "lost": "Clean removed"}
    rates |= removed if any(row["lost"] is not None for row in rows) else {}
    return [
        *((axis, {"defense": "Defence"}.get(axis, axis.capitalize()), "word") for axis in axes),
        (*seed, seed[0]),
        ("n", "n", "number"),
        *((key, heading, "rate") for key, heading in rates.items()),
        ("flags", "Flags", "flags"),
    ]


def _fixed(rows: Sequence[Cell]) -> list[tuple[str, str]]:
    axes = ("images", "teacher", "condenser", "encoder", "budget")
    shared = [axis for axis in axes if rows and rows[0].get(axis) not in (None, "none") and not varying(rows, (axis,))]
    return [(axis, str(rows[0][axis])) for axis in shared]


def _raised(rows: Sequence[Cell], glossary: dict[str, str]) -> list[str]:
    """Flags that this study raised come first in the glossary."""
    raised = {name for row in rows for name in row["flags"]}
    return sorted(glossary, key=lambda name: name not in raised)


def _pictures(strips: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """PNG bytes become text; as many of each strip as the budget allows."""
    size = 0
    for shown in (8, 4, 2, 1, 0):
        size = sum(len(png) for s in strips.values() for kind in KINDS for png in s[kind][:shown])
        if size <= PICTURES_BUDGET:
            break
    return {
        attack: {
            "caption": strip.get("caption", ""),
            "kinds": {kind: [base64.b64encode(png).decode() for png in strip[kind][:shown]] for kind in KINDS},
        }
        for attack, strip in strips.items()
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null, which the page shows as a dash."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> str:
    torch = importlib.metadata.version("torch")
    return f"Distrust {__version__} · Python {platform.python_version()} · torch {torch}"
