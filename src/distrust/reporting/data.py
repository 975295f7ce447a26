"""What a report is made of: plain dictionaries, gathered by the study engine; and how they get into a page."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Args:
        title: name of the study.
        cells: one flat object per measured model and seed; rates are fractions 0..1 or None. A cell whose
            `distiller` is "none" and whose `student` is None is the teacher itself.
        pictures: attack → {"clean", "triggered", "difference": PNG bytes, "caption"}; see `pictures.strip`.
        lineage: stage key → {"kind", "method", "options", "seconds", "parents", "flags", "state"}.
        published: other people's numbers: {"source", "convention", "attack", "defense", "acc", "asr", "note"}.
        embeddings: features of a model: the axes of its cell, `seed`, `asr`, and what `features.feature_map` gives.
        glossary: flag → the paragraph that explains it.
        made_by: the command that made the report.
        question: what the study asks, in a sentence.
    """

    title: str
    cells: list[dict[str, Any]]
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)
    lineage: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: list[dict[str, Any]] = field(default_factory=list)
    embeddings: list[dict[str, Any]] = field(default_factory=list)
    glossary: dict[str, str] = field(default_factory=dict)
    made_by: str = ""
    question: str = ""


def packed(data: dict[str, Any]) -> str:
    """JSON, compressed, in letters that may stand in a page; the same data give the same letters."""
    # JSON has no NaN and no infinity: they become null, which the page shows as a dash
    plain = json.loads(json.dumps(data, default=str), parse_constant=lambda _: None)
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()
