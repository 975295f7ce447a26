"""ML-BOM: an audit as CycloneDX describes a model or a set, for whatever keeps stock of what is in use."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__

if TYPE_CHECKING:
    from .audit import Audit

TASKS = {"classifier": "image classification", "encoder": "image features"}
LIMITS = (
    "clean-looking does not mean clean: of attacks other than those named in distrust:rates nothing is known.",
    "A backdoor that sleeps in a model and wakes in its student is not seen in the model.",
)


def as_bom(audit: Audit) -> dict[str, Any]:
    """An audit as a CycloneDX 1.6 document with one component, its file with digest, numbers and verdict; JSON-able."""
    file = Path(audit.source)
    component: dict[str, Any] = {
        "type": "data" if audit.kind == "synthetic" else "machine-learning-model",
        "bom-ref": f"distrust:{file.name}",
        "name": file.name,
    }
    if file.is_file():
        component["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(file.read_bytes()).hexdigest()}]
    if audit.kind != "synthetic":
        component["modelCard"] = {
            "modelParameters": {"task": TASKS[audit.kind]},
            "quantitativeAnalysis": {"performanceMetrics": _metrics(audit)},
            "considerations": {"technicalLimitations": [*LIMITS]},
        }
    facts: dict[str, Any] = {"verdict": audit.verdict, "why": audit.why, "shelf": audit.shelf and audit.shelf.name}
    facts |= {"p": audit.compared.p, "class": audit.named and audit.named[1]} if audit.compared else {}
    facts |= {
        f"rates:{family or 'clean'}": f"{share.hits} of {share.of} called suspicious"
        for family, share in audit.rates.items()
    }
    component["properties"] = [
        {"name": f"distrust:{name}", "value": str(value)} for name, value in facts.items() if value is not None
    ]
    tool = {"type": "application", "name": "Distrust", "version": __version__}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}},
        "components": [component],
    }


def _metrics(audit: Audit) -> list[dict[str, Any]]:
    """Rates 0..1 on held-out images, each with its interval of 95 %."""
    asked = (
        (audit.measured, "acc", "accuracy", "clean images, held out"),
        (audit.effect, "asr", "attack success rate", "held-out images with the trigger that was found"),
        (audit.effect, "base", "attack success rate of a fine-tuned copy", "the same images"),
    )
    rows = list[dict[str, Any]]()
    for measured, field, kind, where in asked:
        value = measured.values.get(field) if measured else None
        if measured and value is not None:
            row: dict[str, Any] = {"type": kind, "value": f"{value:.4f}", "slice": where}
            if between := measured.values.get(f"{field}_interval"):
                low, high = between
                row["confidenceInterval"] = {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"}
            rows.append(row)
    return rows
